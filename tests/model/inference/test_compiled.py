"""The compiled dense part: which shapes and batch sizes are compiled, and that results do not change."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN

from model import Checkpoint, MaskRCNN, Preset, load_model
from model.inference.compiled import MAX_SHAPES, CompiledDense
from model.inference.cpu_fusion import FusedBlock, can_fuse
from model.inference.prepare import prepare

pytestmark = pytest.mark.slow

Counting = tuple[CompiledDense, list[Sequence[Tensor]]]


@pytest.fixture
def network(tiny: Preset) -> MaskRCNN:
    torch.compiler.reset()
    torch.manual_seed(0)
    return prepare(MaskRCNN(tiny), torch.float32, torch.device("cpu"), exact=True)


def counting(network: MaskRCNN, plain: Callable[[Tensor], object]) -> Counting:
    """Returns the dense part compiled with a backend that runs the traced graph, and the inputs of each compilation."""
    compiled: list[Sequence[Tensor]] = []

    def backend(graph: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> Callable[..., object]:
        compiled.append(inputs)
        return graph.forward

    return CompiledDense(network.dense, plain, backend=backend), compiled


def images(count: int, height: int, width: int) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(height + width))


def assert_equal(found: Sequence[Sequence[Tensor]], expected: Sequence[Sequence[Tensor]]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a, b)


def never(_: Tensor) -> None:
    raise AssertionError("the plain network ran")


@torch.inference_mode()
def test_every_shape_is_compiled_once(network: MaskRCNN) -> None:
    """Two networks in one process share PyTorch's limit: one here, as each shape takes seconds; by default eight."""
    first, compiled = counting(network, never)
    second, compiled_again = counting(network, never)
    with torch.compiler.config.patch(recompile_limit=1):  # type: ignore[attr-defined]
        for dense, number in ((first, 2), (second, 1), (first, 2)):
            for width in range(64, 64 + 32 * number, 32):
                assert_equal(dense(images(1, 64, width)), network.dense(images(1, 64, width)))
    assert (len(compiled), len(compiled_again)) == (2, 1)


@torch.inference_mode()
def test_shapes_past_the_limit_go_to_the_plain_network(network: MaskRCNN, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_SHAPES > 8
    monkeypatch.setattr("model.inference.compiled.MAX_SHAPES", 2)
    plain: list[torch.Size] = []

    def counted(given: Tensor) -> object:
        plain.append(given.shape)
        return network.dense(given)

    dense, compiled = counting(network, counted)
    for width in (64, 96, 128, 160, 64, 128):
        assert_equal(dense(images(1, 64, width)), network.dense(images(1, 64, width)))
    assert len(compiled) == 2
    assert [shape[3] for shape in plain] == [128, 160, 128]


@torch.inference_mode()
def test_a_smaller_batch_is_filled_up_and_gives_its_own_results(network: MaskRCNN) -> None:
    dense, compiled = counting(network, never)
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
    tiny: Preset, tiny_torchvision: TorchvisionMaskRCNN, pixels: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One shape is compiled; the other runs on the fused layers."""
    monkeypatch.setattr("model.inference.compiled.MAX_SHAPES", 1)
    checkpoint = Checkpoint(tiny_torchvision.state_dict(), tiny, "", {})
    eager = load_model(checkpoint, precision="bf16", device="cpu")
    compiled = load_model(checkpoint, precision="bf16", device="cpu", compiled=True)
    fused = sum(tiny.blocks) if can_fuse(torch.device("cpu"), torch.bfloat16) else 0  # needs AVX512
    assert sum(isinstance(m, FusedBlock) for m in compiled.modules()) == fused
    for name in ("landscape", "square", "landscape"):
        a, b = eager.predict([pixels[name]])[0], compiled.predict([pixels[name]])[0]
        torch.testing.assert_close(a.scores[:10], b.scores[:10], atol=0.03, rtol=0)
        if name == "square":
            assert torch.equal(a.boxes, b.boxes)
