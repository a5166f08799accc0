"""The compiled dense part: which shapes and batch sizes are compiled, and that results do not change."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn import functional as F

from model import Checkpoint, Preset, load_model
from model.inference.compiled import MAX_SHAPES, CompiledDense, Dense
from model.inference.cpu_fusion import FusedBlock, can_fuse
from model.training.network import build_torchvision

pytestmark = pytest.mark.slow

Counting = tuple[CompiledDense, list[Sequence[Tensor]]]


@pytest.fixture(autouse=True)
def nothing_compiled() -> None:
    torch.compiler.reset()
    counters.clear()


class Little(nn.Module):
    """Stands in for a network, whose dense part takes a second to trace."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 4, 4)

    def dense(self, images: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        maps = self.stem(images).relu()
        return [maps, F.avg_pool2d(maps, 2)], [maps.flatten(1)], [maps.flatten(2).transpose(1, 2)]


def counting(dense: Dense, plain: Callable[[Tensor], object]) -> Counting:
    """Returns a function compiled with a backend that runs the traced graph, and the inputs of each compilation."""
    compiled: list[Sequence[Tensor]] = []

    def backend(graph: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> Callable[..., object]:
        compiled.append(inputs)
        return graph.forward

    return CompiledDense(dense, plain, backend=backend), compiled


def images(count: int, height: int, width: int) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(height + width))


def assert_equal(found: Sequence[Sequence[Tensor]], expected: Sequence[Sequence[Tensor]]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a, b)


def never(_: Tensor) -> None:
    raise AssertionError("the plain network ran")


@torch.inference_mode()
def test_every_shape_is_compiled_once() -> None:
    """Two networks in one process share PyTorch's limit, by default eight."""
    one, other = Little(), Little()
    first, compiled = counting(one.dense, never)
    second, compiled_again = counting(other.dense, never)
    for network, dense, number in ((one, first, 7), (other, second, 4), (one, first, 7)):
        for width in range(64, 64 + 32 * number, 32):
            assert_equal(dense(images(1, 64, width)), network.dense(images(1, 64, width)))
    assert (len(compiled), len(compiled_again)) == (7, 4)


@torch.inference_mode()
def test_shapes_past_the_limit_go_to_the_plain_network(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_SHAPES > 8
    monkeypatch.setattr("model.inference.compiled.MAX_SHAPES", 2)
    plain: list[torch.Size] = []

    def counted(given: Tensor) -> object:
        plain.append(given.shape)
        return network.dense(given)

    network = Little()
    dense, compiled = counting(network.dense, counted)
    for width in (64, 96, 128, 160, 64, 128):
        assert_equal(dense(images(1, 64, width)), network.dense(images(1, 64, width)))
    assert len(compiled) == 2
    assert [shape[3] for shape in plain] == [128, 160, 128]


@torch.inference_mode()
def test_a_smaller_batch_is_filled_up_and_gives_its_own_results() -> None:
    network = Little()
    dense, compiled = counting(network.dense, never)
    whole = images(4, 64, 96)
    for count in (4, 1, 3, 2, 4):
        for found, expected in zip(dense(whole[:count]), network.dense(whole), strict=True):
            for a, b in zip(found, expected, strict=True):
                assert torch.equal(a, b[:count])
    assert len(compiled) == 1
    dense(images(5, 64, 96))
    assert len(compiled) == 2


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no compiler")
def test_compiled_finds_the_same(
    tiny: Preset, calibrate: Callable[..., Any], pixels: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One shape is compiled, in one graph; the other runs on the fused layers. The precision is that of this processor.

    The maps of all stages have as many values, and only one proposes: so one kernel does for many layers, since each
    takes more than a second to build.
    """
    monkeypatch.setattr("model.inference.compiled.MAX_SHAPES", 1)
    monkeypatch.setattr("torch._inductor.config.compile_threads", 1)  # others are processes that import torch
    channels = {"trunk_channels": (8, 32, 128, 512), "trunk_widths": (8, 32, 128, 512)}
    finest = {"rpn_levels": 1, "anchor_sizes": tiny.anchor_sizes[:1], "anchor_ratios": tiny.anchor_ratios[:1]}
    preset = tiny.replace(**channels, **finest)
    torch.manual_seed(0)
    trained = calibrate(build_torchvision(preset), pixels["landscape"])
    checkpoint = Checkpoint(trained.state_dict(), preset, "", {})
    eager = load_model(checkpoint, device="cpu")
    compiled = load_model(checkpoint, device="cpu", compiled=True)
    fused = sum(tiny.blocks) if can_fuse(compiled.device, compiled.dtype) else 0
    assert sum(isinstance(m, FusedBlock) for m in compiled.modules()) == fused
    for name in ("landscape", "square", "landscape"):
        a, b = eager.predict([pixels[name]])[0], compiled.predict([pixels[name]])[0]
        assert len(a) >= 10
        torch.testing.assert_close(a.scores[:10], b.scores[:10], atol=0.03, rtol=0)
        if name == "square":
            assert torch.equal(a.boxes, b.boxes)
    assert counters["stats"]["unique_graphs"] == 1
