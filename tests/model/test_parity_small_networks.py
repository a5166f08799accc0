"""Small networks against torchvision's, in float32: at full size, and with no setting at its default."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN, resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.resnet import BasicBlock, ResNet

from model import Checkpoint, Detections, Preset, load_model

Photos = dict[str, np.ndarray]
Calibrate = Callable[[TorchvisionMaskRCNN, np.ndarray], TorchvisionMaskRCNN]
Reference = Callable[[TorchvisionMaskRCNN, np.ndarray], Detections]
AssertSame = Callable[..., None]


@pytest.mark.slow
def test_at_full_size(
    pixels: Photos, calibrate: Calibrate, torchvision_detections: Reference, assert_same: AssertSame, tmp_path: Path
) -> None:
    """800/1333, with as many proposals and detections as by default; a small trunk, since maps are large."""
    torch.manual_seed(6)
    trunk = ResNet(BasicBlock, [1, 1, 1, 1])
    backbone = BackboneWithFPN(trunk, {f"layer{i}": str(i) for i in range(1, 5)}, [64, 128, 256, 512], 64)
    network = TorchvisionMaskRCNN(
        backbone,
        box_head=TwoMLPHead(64 * 7**2, 256),
        box_predictor=FastRCNNPredictor(256, 91),
        mask_head=MaskRCNNHeads(64, (64, 64), 1),
        mask_predictor=MaskRCNNPredictor(64, 64, 91),
    )
    calibrate(network, pixels["landscape"])
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    (found,) = load_model(tmp_path / "weights.pth", precision="fp32", device="cpu").predict([pixels["portrait"]])
    expected = torchvision_detections(network, pixels["portrait"])
    assert len(expected) > 50
    assert len(expected.labels.unique()) >= 2
    assert expected.masks.std() > 0.2
    assert_same(found, expected)


@pytest.mark.slow
def test_r18_with_other_classes_anchors_and_thresholds(
    pixels: Photos, calibrate: Calibrate, torchvision_detections: Reference, assert_same: AssertSame, tmp_path: Path
) -> None:
    """Basic blocks; every setting that a state dict does not contain is given as an override."""
    torch.manual_seed(4)
    sizes, ratios = ((16.0,), (32.0,), (64.0,), (128.0,), (300.0,)), ((0.3, 1.0, 3.0),) * 5
    network = TorchvisionMaskRCNN(
        resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d),
        num_classes=4,
        min_size=128,
        max_size=200,
        image_mean=[0.5, 0.4, 0.3],
        image_std=[0.2, 0.3, 0.4],
        rpn_anchor_generator=AnchorGenerator(sizes, ratios),
        rpn_pre_nms_top_n_test=300,
        rpn_post_nms_top_n_test=80,
        rpn_nms_thresh=0.6,
        box_score_thresh=0.2,
        box_nms_thresh=0.3,
        box_detections_per_img=12,
    )
    calibrate(network, pixels["landscape"])
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    ours = load_model(
        tmp_path / "weights.pth",
        precision="fp32",
        device="cpu",
        min_size=128,
        max_size=200,
        mean=[0.5, 0.4, 0.3],
        std=[0.2, 0.3, 0.4],
        anchor_sizes=sizes,
        anchor_ratios=ratios,
        rpn_pre_nms=300,
        rpn_post_nms=80,
        rpn_nms=0.6,
        min_score=0.2,
        nms=0.3,
        max_detections=12,
    )
    images = [pixels["landscape"], pixels["portrait"], pixels["square"]]
    for found, image in zip(ours.predict(images), images, strict=True):
        expected = torchvision_detections(network, image)
        assert len(expected) >= 12
        assert_same(found, expected)
    preset = ours.preset
    assert preset.num_outputs == 4
    assert not preset.bottleneck
    assert preset.blocks == (2, 2, 2, 2)


def test_a_preset_of_other_widths(
    tiny: Preset,
    tiny_torchvision: TorchvisionMaskRCNN,
    pixels: Photos,
    torchvision_detections: Reference,
    assert_same: AssertSame,
) -> None:
    """No field at its default: everything comes from the checkpoint's preset."""
    checkpoint = Checkpoint(tiny_torchvision.state_dict(), tiny, "", {})
    network = load_model(checkpoint, precision="fp32", device="cpu")
    images = [*pixels.values(), pixels["wide"][:, ::-1].copy(), pixels["wide"][:5], pixels["small"][:, :4]]
    references = [torchvision_detections(tiny_torchvision, image) for image in images]
    assert min(len(reference) for reference in references[:5]) >= 10
    for found, reference in zip(network.predict(images, batch_size=1), references, strict=True):
        assert_same(found, reference)
    for found, reference in zip(network.predict(images, batch_size=3), references, strict=True):
        assert_same(found, reference)
