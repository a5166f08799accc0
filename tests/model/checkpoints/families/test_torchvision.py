"""torchvision's checkpoints: the preset is inferred from the shapes, and keys of old versions are renamed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.small_checkpoint import State, assert_holds, on_disk
from torch import nn
from torchvision.models import detection
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.ops.misc import FrozenBatchNorm2d

from model import Checkpoint, Preset, WeightsError, read_checkpoint
from model.checkpoints.families.torchvision import infer_preset, rename_old_keys
from model.load import build_network


def torchvision_state(backbone: str, classes: int, norm: type[nn.Module] = nn.BatchNorm2d) -> State:
    """Returns a state dict on the meta device: keys and shapes without values."""
    with torch.device("meta"):
        trunk = resnet_fpn_backbone(backbone_name=backbone, weights=None, norm_layer=norm)
        return TorchvisionMaskRCNN(trunk, classes).state_dict()


@pytest.mark.parametrize(
    ("backbone", "blocks", "bottleneck", "groups", "widths"),
    [
        ("resnet18", (2, 2, 2, 2), False, 1, (64, 128, 256, 512)),
        ("resnet34", (3, 4, 6, 3), False, 1, (64, 128, 256, 512)),
        ("resnet50", (3, 4, 6, 3), True, 1, (64, 128, 256, 512)),
        ("resnet101", (3, 4, 23, 3), True, 1, (64, 128, 256, 512)),
        ("resnet152", (3, 8, 36, 3), True, 1, (64, 128, 256, 512)),
        ("resnext50_32x4d", (3, 4, 6, 3), True, 32, (128, 256, 512, 1024)),
        ("resnext101_32x8d", (3, 4, 23, 3), True, 32, (256, 512, 1024, 2048)),
        ("wide_resnet50_2", (3, 4, 6, 3), True, 1, (128, 256, 512, 1024)),
    ],
)
def test_every_resnet_of_torchvision_is_recognised(
    backbone: str, blocks: tuple[int, ...], bottleneck: bool, groups: int, widths: tuple[int, ...]
) -> None:
    state = torchvision_state(backbone, 7)
    preset = infer_preset(state)
    assert preset.blocks == blocks
    assert preset.bottleneck == bottleneck
    assert preset.groups == groups
    assert preset.trunk_widths == widths
    assert preset.trunk_channels == ((256, 512, 1024, 2048) if bottleneck else widths)
    assert (preset.stem, preset.fpn_channels, preset.box_hidden, preset.mask_hidden) == (64, 256, 1024, 256)
    assert preset.mask_channels == (256,) * 4
    assert preset.category_ids == (1, 2, 3, 4, 5, 6)
    assert not preset.frozen_bn
    assert preset.bn_eps == 1e-5
    build_network(Checkpoint(state, preset, "", {}), preset)  # raises if any key or shape does not fit


def test_coco_checkpoints_have_coco_names() -> None:
    with torch.device("meta"):
        state = detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    preset = infer_preset(state)
    assert preset == Preset(name=preset.name, category_ids=preset.category_ids, categories=preset.categories)
    assert preset.category_ids == tuple(range(1, 91))
    names = dict(zip(preset.category_ids, preset.categories, strict=True))
    known = {1: "person", 2: "bicycle", 13: "stop sign", 18: "dog", 44: "bottle", 62: "chair", 88: "teddy bear"}
    assert {i: names[i] for i in known} == known
    assert names[90] == "toothbrush"
    unused = {i for i, name in names.items() if name == "N/A"}
    assert unused == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # of COCO's 90 ids


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet101", "resnext50_32x4d", "wide_resnet50_2"])
def test_frozen_normalisation_has_torchvisions_epsilon(backbone: str) -> None:
    """FrozenBatchNorm2d is recognised by its missing counters. The epsilon is torchvision's."""
    with torch.device("meta"):
        trunk = resnet_fpn_backbone(backbone_name=backbone, weights=None, norm_layer=FrozenBatchNorm2d)
        state = TorchvisionMaskRCNN(trunk, 5).state_dict()
    assert not [k for k in state if "num_batches" in k]
    (epsilon,) = {m.eps for m in trunk.modules() if isinstance(m, FrozenBatchNorm2d)}
    preset = infer_preset(state)
    assert preset.frozen_bn
    assert preset.bn_eps == epsilon


def test_a_frozen_r50_has_epsilon_zero() -> None:
    """torchvision sets the epsilon to zero for its COCO weights, which exist only for R-50."""
    preset = infer_preset(torchvision_state("resnet50", 91, FrozenBatchNorm2d))
    assert preset.frozen_bn
    assert preset.bn_eps == 0.0


def with_old_keys(state: State) -> State:
    """Renames keys to those that torchvision wrote before it wrapped convolutions in blocks."""
    renamed = {}
    for key, value in state.items():
        key = re.sub(r"^(backbone\.fpn\.\w+_blocks\.\d)\.0\.", r"\1.", key)
        key = re.sub(r"^rpn\.head\.conv\.0\.0\.", "rpn.head.conv.", key)
        key = re.sub(
            r"^roi_heads\.mask_head\.(\d)\.0\.", lambda m: f"roi_heads.mask_head.mask_fcn{int(m[1]) + 1}.", key
        )
        renamed[key] = value
    return renamed


def test_old_keys_are_renamed(small_state: State, tmp_path: Path) -> None:
    old = with_old_keys(small_state)
    for name in ("mask_head.mask_fcn1.weight", "mask_head.mask_fcn2.bias"):
        assert f"roi_heads.{name}" in old
    assert {"backbone.fpn.inner_blocks.0.weight", "backbone.fpn.layer_blocks.3.bias", "rpn.head.conv.weight"} <= set(
        old
    )
    assert_holds(read_checkpoint(on_disk(old, tmp_path / "w.pth")), small_state)


def test_torchvision_renames_old_keys_in_the_same_way() -> None:
    """torchvision's modules rename old keys when they load them. Our result must be the same."""
    torch.manual_seed(1)

    def make() -> TorchvisionMaskRCNN:
        backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
        heads = {"box_head": TwoMLPHead(256 * 7 * 7, 8), "box_predictor": FastRCNNPredictor(8, 3)}
        return TorchvisionMaskRCNN(backbone, **heads, mask_predictor=MaskRCNNPredictor(256, 8, 3))

    old, network = with_old_keys(make().state_dict()), make()
    network.load_state_dict(old)
    expected, found = network.state_dict(), rename_old_keys(old)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[k], v) for k, v in expected.items())


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (detection.fasterrcnn_resnet50_fpn, "mask"),
        (detection.keypointrcnn_resnet50_fpn, "mask"),
        (detection.retinanet_resnet50_fpn, "not a whole Mask R-CNN"),
        (detection.fasterrcnn_mobilenet_v3_large_fpn, "not a whole Mask R-CNN"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_other_architectures_of_torchvision_are_refused(make: Callable[..., nn.Module], named: str) -> None:
    with torch.device("meta"):
        state = make(weights=None, weights_backbone=None).state_dict()
    with pytest.raises(WeightsError, match=named):
        infer_preset(rename_old_keys(state))
