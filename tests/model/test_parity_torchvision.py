"""The whole network against torchvision's, image by image, in float32.

Random weights, calibrated so that they detect: parity does not need a trained network, only one whose
scores, boxes and masks vary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from torch import nn
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.misc import FrozenBatchNorm2d

from model import Checkpoint, Detections, Preset, load_model, read_checkpoint
from model.masks.rle import encode

Photos = dict[str, np.ndarray]
Calibrate = Callable[[TorchvisionMaskRCNN, np.ndarray], TorchvisionMaskRCNN]
Reference = Callable[[TorchvisionMaskRCNN, np.ndarray], Detections]
AssertSame = Callable[..., None]
# Fewer RoIs than by default, because at small sizes they take most of the time.
FEWER = {"rpn_post_nms": 60, "max_detections": 12}


@dataclass
class Network:
    """torchvision's network and its checkpoint as a user would have it, on disk."""

    torchvision: TorchvisionMaskRCNN
    path: Path

    @cached_property
    def checkpoint(self) -> Checkpoint:
        return read_checkpoint(self.path)


def saved(network: TorchvisionMaskRCNN, path: Path) -> Network:
    torch.save(network.state_dict(), path)
    return Network(network, path)


def small(network: TorchvisionMaskRCNN, size: int, longest: int) -> dict[str, int]:
    """Sets a small input and fewer RoIs in torchvision's network; returns the overrides that do it in ours."""
    network.transform.min_size, network.transform.max_size = (size,), longest
    network.rpn._post_nms_top_n = {"testing": FEWER["rpn_post_nms"]}
    network.roi_heads.detections_per_img = FEWER["max_detections"]
    return {"min_size": size, "max_size": longest, **FEWER}


@pytest.fixture(scope="module")
def r50(request: pytest.FixtureRequest, pixels: Photos, calibrate: Calibrate, tmp_path_factory: Any) -> Network:
    """torchvision's R50-FPN with 91 outputs from a seed."""
    torch.manual_seed(request.param)
    network = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    small(network, 192, 320)
    calibrate(network, pixels["landscape"])
    return saved(network, tmp_path_factory.mktemp("r50") / "weights.pth")


def assert_detections_are_torchvisions(
    found: list[Detections],
    reference: TorchvisionMaskRCNN,
    images: list[np.ndarray],
    torchvision_detections: Reference,
    assert_same: AssertSame,
) -> None:
    for ours, image in zip(found, images, strict=True):
        expected = torchvision_detections(reference, image)
        assert len(expected) >= 12
        assert len(expected.labels.unique()) >= 2
        assert expected.masks.std() > 0.2
        assert_same(ours, expected)


@pytest.mark.slow
@pytest.mark.parametrize(("r50", "names"), [(1, ["small", "portrait", "wide"])], indirect=["r50"])
def test_r50_of_another_seed(
    r50: Network, names: list[str], pixels: Photos, torchvision_detections: Reference, assert_same: AssertSame
) -> None:
    """Other weights and photos, each image against torchvision alone."""
    images = [pixels[name] for name in names]
    network = load_model(r50.path, precision="fp32", device="cpu", **small(r50.torchvision, 192, 320))
    found = network.predict(images)
    assert_detections_are_torchvisions(found, r50.torchvision, images, torchvision_detections, assert_same)


@pytest.mark.slow
@pytest.mark.parametrize("r50", [0], indirect=True)
def test_r50_alone_and_among_changing_neighbours(
    r50: Network, pixels: Photos, torchvision_detections: Reference, assert_same: AssertSame
) -> None:
    overrides = small(r50.torchvision, 128, 214)
    network = load_model(r50.checkpoint, precision="fp32", device="cpu", **overrides)
    crop = pixels["square"][:459]  # 612 x 459: in the padded shape of the 640 x 480 photo
    references = {name: torchvision_detections(r50.torchvision, pixels[name]) for name in ("landscape", "small")}
    references["crop"] = torchvision_detections(r50.torchvision, crop)
    assert all(len(reference) >= 12 for reference in references.values())

    (alone,) = network.predict([pixels["landscape"]])
    assert_same(alone, references["landscape"])
    together = network.predict([crop, pixels["landscape"], pixels["small"]])
    for ours, name in zip(together, ("crop", "landscape", "small"), strict=True):
        assert_same(ours, references[name])
    other = network.predict([pixels["landscape"], 255 - crop])  # another neighbour, another place in the batch
    assert_same(other[0], references["landscape"])
    single = network.predict([crop, pixels["landscape"]], batch_size=1)
    assert_same(single[0], references["crop"])
    assert_same(single[1], references["landscape"])


@pytest.mark.parametrize("r50", [0], indirect=True)
def test_r50_ends_as_torchvisions_pasted_masks(r50: Network, pixels: Photos) -> None:
    """End to end: our RLE of an image decodes to what torchvision's own forward pass pastes."""
    overrides = small(r50.torchvision, 192, 192)
    image = pixels["small"]
    (found,) = load_model(r50.checkpoint, precision="fp32", device="cpu", **overrides).predict([image])
    with torch.inference_mode():
        (reference,) = r50.torchvision([torch.from_numpy(image).permute(2, 0, 1).float() / 255])
    height, width = image.shape[:2]
    assert len(found) == len(reference["masks"]) >= 12
    counts = encode(found.masks, found.boxes, height, width)
    masks = np.asfortranarray((reference["masks"][:, 0] > 0.5).numpy().transpose(1, 2, 0).astype(np.uint8))
    overlap = coco.iou([{"size": [height, width], "counts": c} for c in counts], coco.encode(masks), [0] * len(counts))
    filled = masks.any((0, 1))
    assert filled.sum() >= 9
    assert (np.diagonal(overlap)[filled] >= 0.999).all()


def assert_parity(
    network: TorchvisionMaskRCNN,
    path: Path,
    images: list[np.ndarray],
    reference: Reference,
    assert_same: AssertSame,
    **overrides: Any,
) -> Preset:
    """Saves, loads and compares; returns the preset that was derived from the shapes."""
    stored = saved(network, path)
    ours = load_model(stored.checkpoint, precision="fp32", device="cpu", **overrides)
    for found, image in zip(ours.predict(images), images, strict=True):
        expected = reference(network, image)
        assert len(expected) >= 12
        assert_same(found, expected)
    return stored.checkpoint.preset


@pytest.mark.slow
def test_r101_with_frozen_normalisation(
    pixels: Photos, calibrate: Calibrate, torchvision_detections: Reference, assert_same: AssertSame, tmp_path: Path
) -> None:
    """As torchvision builds it for anything but its own COCO weights: FrozenBatchNorm2d, epsilon 1e-5."""
    torch.manual_seed(2)
    backbone = resnet_fpn_backbone(backbone_name="resnet101", weights=None, norm_layer=FrozenBatchNorm2d)
    network = TorchvisionMaskRCNN(backbone, 21)
    overrides = small(network, 160, 160)
    calibrate(network, pixels["landscape"])
    images = [pixels["square"]]
    preset = assert_parity(network, tmp_path / "r101.pth", images, torchvision_detections, assert_same, **overrides)
    assert preset.blocks == (3, 4, 23, 3)
    assert preset.frozen_bn
    assert preset.bn_eps == 1e-5


@pytest.mark.slow
def test_r50_with_frozen_normalisation_of_epsilon_zero(
    pixels: Photos, calibrate: Calibrate, torchvision_detections: Reference, assert_same: AssertSame, tmp_path: Path
) -> None:
    """As torchvision runs its own COCO weights. The variances are so small that the epsilon matters."""
    torch.manual_seed(3)
    backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d)
    network = TorchvisionMaskRCNN(backbone, 91)
    overwrite_eps(network, 0.0)
    overrides = small(network, 160, 214)
    network = calibrate(network, pixels["landscape"])
    body = network.backbone.body
    body.conv1.weight.data *= 0.01
    body.bn1.running_mean *= 0.01
    body.bn1.running_var *= 1e-4
    assert body.bn1.running_var.median() < 1e-3
    images = [pixels["landscape"]]
    preset = assert_parity(network, tmp_path / "r50.pth", images, torchvision_detections, assert_same, **overrides)
    assert preset.bn_eps == 0.0
    overrides["bn_eps"] = 1e-5
    (wrong,) = load_model(tmp_path / "r50.pth", precision="fp32", device="cpu", **overrides).predict(images)
    with pytest.raises(AssertionError):
        assert_same(wrong, torchvision_detections(network, images[0]))


@pytest.mark.slow
def test_a_resnext_trunk(
    pixels: Photos, calibrate: Calibrate, torchvision_detections: Reference, assert_same: AssertSame, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    backbone = resnet_fpn_backbone(backbone_name="resnext50_32x4d", weights=None, norm_layer=nn.BatchNorm2d)
    network = TorchvisionMaskRCNN(backbone, 6)
    overrides = small(network, 160, 214)
    calibrate(network, pixels["landscape"])
    images = [pixels["portrait"]]
    preset = assert_parity(network, tmp_path / "x50.pth", images, torchvision_detections, assert_same, **overrides)
    assert preset.groups == 32
    assert preset.trunk_widths == (128, 256, 512, 1024)
