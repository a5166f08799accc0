"""torchvision's Mask R-CNN V2: detections from its state dict equal its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

from model import MaskRCNN, load_model, read_checkpoint
from model.inference.cpu_fusion import FusedConv, can_fuse
from model.layers.roi_align import multiscale_roi_align
from model.layers.transform import to_input

pytestmark = pytest.mark.slow

# Fewer proposals than by default: its box head has four convolutions for each.
SMALL = {"rpn_post_nms": 60, "max_detections": 12, "min_size": 160, "max_size": 266}


@pytest.fixture(scope="module")
def reference(pixels: Any, calibrate: Any) -> Any:
    torch.manual_seed(0)
    network = maskrcnn_resnet50_fpn_v2(
        weights=None,
        weights_backbone=None,
        num_classes=7,
        rpn_post_nms_top_n_test=SMALL["rpn_post_nms"],
        box_detections_per_img=SMALL["max_detections"],
        min_size=SMALL["min_size"],
        max_size=SMALL["max_size"],
    )
    return calibrate(network, pixels["landscape"])


@pytest.fixture(scope="module")
def file(reference: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("v2") / "v2.pth"
    torch.save(reference.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def network(file: Path) -> MaskRCNN:
    return load_model(file, precision="fp32", device="cpu", **SMALL)


def test_the_architecture_is_inferred_from_the_keys(file: Path) -> None:
    preset = read_checkpoint(file).preset
    assert (preset.fpn_norm, preset.mask_norm, preset.rpn_convs, preset.frozen_bn) == (True, True, 2, False)
    assert (preset.box_convs, preset.box_layers, preset.box_hidden) == ((256,) * 4, 1, 1024)
    assert preset.bn_eps == 1e-5


def test_a_coco_v2_checkpoint_has_coco_names(reference: Any) -> None:
    from model.checkpoints.families.torchvision import infer_preset, rename_old_keys

    with torch.device("meta"):
        state = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None).state_dict()
    preset = infer_preset(rename_old_keys(state))
    assert preset.categories[:2] == ("person", "bicycle")
    assert len(preset.categories) == 90


@pytest.mark.parametrize("photo", ["landscape", "portrait", "small"])
def test_detections_are_torchvisions(
    reference: Any, network: MaskRCNN, pixels: Any, torchvision_detections: Any, assert_same: Any, photo: str
) -> None:
    expected = torchvision_detections(reference, pixels[photo])
    assert len(expected) == SMALL["max_detections"]
    assert_same(network.predict([pixels[photo]])[0], expected)


def assert_folded_and_fused(network: MaskRCNN) -> None:
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())
    fused = sum(isinstance(m, FusedConv) for m in network.roi_heads.modules())
    assert fused == (8 if can_fuse(network.device, network.dtype) else 0)


def test_folded_and_fused_it_is_the_same_network(network: MaskRCNN, file: Path, pixels: Any) -> None:
    """In the precision that this processor computes in."""
    fast = load_model(file, device="cpu", **SMALL)
    assert_folded_and_fused(fast)
    a, b = (n.predict([pixels["landscape"]])[0] for n in (network, fast))
    torch.testing.assert_close(a.scores[:10], b.scores[:10], atol=0.05, rtol=0)


@torch.inference_mode()
def test_in_bfloat16_every_part_is_the_same(network: MaskRCNN, file: Path, pixels: Any) -> None:
    """Each part on the same inputs: with few proposals, rounding decides which of them are left."""
    half = load_model(file, precision="bf16", device="cpu", **SMALL)
    assert_folded_and_fused(half)
    image, preset = torch.from_numpy(pixels["landscape"]), network.preset
    images = to_input([image[:240:4, :384:4]], [(60, 96)], preset, network.device)
    rois, labels = torch.tensor([[0.0, 2, 3, 40, 50], [0, 30, 5, 90, 60], [0, 8, 8, 16, 20]]), torch.tensor([1, 4, 6])
    features = network.dense(images)[0]
    dense, heads = [], []
    for one in (network, half):
        dense.append([t for tensors in one.dense(images) for t in tensors])
        same = [f.to(one.dtype, memory_format=one.memory_format) for f in features]
        pooled = multiscale_roi_align(same, rois, preset.box_roi_size, preset, one.exact)
        boxes = one.roi_heads["box_predictor"](one.roi_heads["box_head"](pooled))
        heads.append([*boxes, one.predict_masks(same, rois, labels)])
    for outputs, least in ((dense, 0.85), (heads, 0.999)):  # random weights amplify rounding from layer to layer
        for a, b in zip(*outputs, strict=True):
            assert torch.cosine_similarity(a.flatten(), b.float().flatten(), dim=0) > least
