"""torchvision's Mask R-CNN V2: detections from its state dict equal its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

from model import load_model, read_checkpoint
from model.inference.cpu_fusion import FusedConv, can_fuse

pytestmark = pytest.mark.slow

# Fewer proposals than by default: its box head has four convolutions for each.
SMALL = {"rpn_post_nms": 300, "max_detections": 40, "min_size": 320, "max_size": 533}


@pytest.fixture(scope="module")
def reference(pixels: Any, calibrate: Any) -> Any:
    torch.manual_seed(0)
    network = maskrcnn_resnet50_fpn_v2(
        weights=None,
        weights_backbone=None,
        num_classes=7,
        rpn_post_nms_top_n_test=300,
        box_detections_per_img=40,
        min_size=320,
        max_size=533,
    )
    return calibrate(network, pixels["landscape"])


@pytest.fixture(scope="module")
def file(reference: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("v2") / "v2.pth"
    torch.save(reference.state_dict(), path)
    return path


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
    reference: Any, file: Path, pixels: Any, torchvision_detections: Any, assert_same: Any, photo: str
) -> None:
    network = load_model(file, precision="fp32", device="cpu", **SMALL)
    expected = torchvision_detections(reference, pixels[photo])
    assert len(expected) >= 20
    assert_same(network.predict([pixels[photo]])[0], expected)


def test_folded_and_fused_it_is_the_same_network(file: Path, pixels: Any) -> None:
    smaller = SMALL | {"rpn_post_nms": 100, "max_detections": 20}  # bfloat16 is slow on some CPUs
    exact = load_model(file, precision="fp32", device="cpu", **smaller)
    fast = load_model(file, precision="bf16", device="cpu", **smaller)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in fast.modules())
    fused = sum(isinstance(m, FusedConv) for m in fast.roi_heads.modules())
    assert fused == (8 if can_fuse(fast.device, torch.bfloat16) else 0)
    a, b = (n.predict([pixels["landscape"]])[0] for n in (exact, fast))
    torch.testing.assert_close(a.scores[:10], b.scores[:10], atol=0.05, rtol=0)
