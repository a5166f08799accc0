"""Fused layers, against the layers that they replace."""

from __future__ import annotations

import pytest
import torch

from model import Checkpoint, Preset, WeightsError, load_model
from model.inference.cpu_fusion import FusedBoxHead, FusedConv, FusedMaskPredictor, can_fuse, fuse_layers
from model.inference.prepare import prepare
from model.layers.heads import BoxHead, MaskPredictor
from model.layers.resnet import BasicBlock, Bottleneck
from model.load import build_network
from model.training.network import build_torchvision

CPU = torch.device("cpu")
BASIC = {"bottleneck": False, "trunk_channels": (16, 24, 32, 48), "trunk_widths": (16, 24, 32, 48)}
WIDE = {"bottleneck": True, "trunk_channels": (64, 96, 128, 192), "trunk_widths": (16, 24, 32, 48)}
TRUNKS = {
    "basic": BASIC,
    "bottleneck": WIDE,
    "stride on the 1x1": WIDE | {"stride_on_1x1": True},
    "grouped": WIDE | {"groups": 4},
    "frozen": WIDE | {"frozen_bn": True},
}


@pytest.fixture(scope="module", params=TRUNKS)
def checkpoint(request, tiny, pixels, calibrate) -> Checkpoint:
    preset = tiny.replace(**TRUNKS[request.param])
    torch.manual_seed(3)
    return Checkpoint(calibrate(build_torchvision(preset), pixels["landscape"]).state_dict(), preset, "", {})


@torch.inference_mode()
def test_dense_part_is_the_same(checkpoint):
    plain = prepare(build_network(checkpoint, checkpoint.preset), torch.float32, CPU, exact=True)
    fused = prepare(build_network(checkpoint, checkpoint.preset), torch.float32, CPU)
    assert not any(isinstance(m, BasicBlock | Bottleneck) for m in fused.modules())
    assert sum(isinstance(m, FusedConv) for m in fused.modules()) > 10
    images = torch.randn(2, 3, 128, 160, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    for ours, theirs in zip(fused.dense(images), plain.dense(images), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert torch.equal(images, before)


def test_same_detections(checkpoint, pixels, assert_same):
    plain = load_model(checkpoint, precision="fp32", device="cpu")
    fused = prepare(build_network(checkpoint, checkpoint.preset), torch.float32, CPU)
    for image in pixels.values():
        assert_same(fused.predict([image])[0], plain.predict([image])[0], boxes=5e-2, scores=1e-3, masks=5e-3)


@torch.inference_mode()
@pytest.mark.parametrize("count", [0, 1, 16, 17, 40])
def test_mask_predictor_picks_the_class(count):
    torch.manual_seed(0)
    plain = MaskPredictor(24, 20, 5)
    features, labels = torch.randn(count, 24, 14, 14), torch.randint(0, 5, (count,))
    torch.testing.assert_close(
        FusedMaskPredictor(plain)(features.contiguous(memory_format=torch.channels_last), labels),
        plain(features, labels),
        atol=1e-5,
        rtol=1e-5,
    )


@torch.inference_mode()
def test_box_head_takes_channels_last():
    torch.manual_seed(0)
    plain = BoxHead(12, 7, 32)
    pooled = torch.randn(9, 12, 7, 7)
    for layout in (torch.contiguous_format, torch.channels_last):
        given = pooled.contiguous(memory_format=layout)
        torch.testing.assert_close(FusedBoxHead(plain)(given), plain(pooled), atol=1e-5, rtol=1e-5)


def test_only_a_cpu_is_fused():
    assert can_fuse(CPU, torch.float32)
    assert not can_fuse(torch.device("cuda"), torch.float32)


def test_unfused_networks_still_predict(tiny, tiny_torchvision, pixels, monkeypatch, assert_same):
    checkpoint = Checkpoint(tiny_torchvision.state_dict(), tiny, "", {})
    monkeypatch.setattr("model.inference.prepare.can_fuse", lambda *_: False)  # a PyTorch without the operators
    folded = load_model(checkpoint, precision="auto", device="cpu")
    assert not any(isinstance(m, FusedConv) for m in folded.modules())
    monkeypatch.undo()
    fused = load_model(checkpoint, precision="auto", device="cpu")
    image = pixels["landscape"]
    a, b = folded.predict([image])[0], fused.predict([image])[0]
    torch.testing.assert_close(a.scores[:5], b.scores[:5], atol=0.05, rtol=0)
    fuse_layers(folded)
    assert_same(folded.predict([image])[0], b, boxes=1e-3)


def test_exact_is_not_compiled():
    with pytest.raises(WeightsError, match="fp32"):
        load_model(Checkpoint({}, Preset(), "", {}), precision="fp32", compiled=True)
