"""Box arithmetic, against torchvision's box coder, clipping and size filter."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import clip_boxes_to_image, remove_small_boxes

from model.layers.boxes import clip, decode, large_enough

CLAMP = math.log(1000 / 16)


def boxes_in(generator: torch.Generator, count: int, side: float) -> Tensor:
    """Random boxes, a tenth of them beyond the corner (side, side)."""
    corner = torch.rand(count, 2, generator=generator) * side * 1.1
    return torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * side / 3], 1)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
@pytest.mark.parametrize("spread", [0.5, 5.0, 100.0])  # the last drives many exponents into the clamp
def test_decode_is_torchvisions(weights: tuple[float, ...], spread: float) -> None:
    generator = torch.Generator().manual_seed(1)
    reference = boxes_in(generator, 500, 800)
    deltas = torch.randn(500, 4, generator=generator) * spread
    expected = BoxCoder(weights, CLAMP).decode(deltas, [reference])[:, 0]
    torch.testing.assert_close(decode(deltas, reference, weights, CLAMP), expected, rtol=1e-6, atol=1e-4)


def test_decode_keeps_leading_dimensions() -> None:
    generator = torch.Generator().manual_seed(2)
    reference, deltas = boxes_in(generator, 60, 800), torch.randn(60, 4, generator=generator)
    expected = BoxCoder((1.0, 1.0, 1.0, 1.0), CLAMP).decode(deltas, [reference])[:, 0].view(3, 4, 5, 4)
    found = decode(deltas.view(3, 4, 5, 4), reference.view(3, 4, 5, 4), (1, 1, 1, 1), CLAMP)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-4)


def test_decode_of_zero_deltas_is_the_reference() -> None:
    reference = torch.tensor([[8.0, 16.0, 24.0, 64.0]])
    assert torch.equal(decode(torch.zeros(1, 4), reference, (10, 10, 5, 5), CLAMP), reference)


def test_decode_clamps_the_size() -> None:
    found = decode(torch.tensor([[0.0, 0.0, 1e4, 1e4]]), torch.tensor([[0.0, 0.0, 16.0, 16.0]]), (1, 1, 1, 1), CLAMP)
    torch.testing.assert_close(found, torch.tensor([[-492.0, -492.0, 508.0, 508.0]]))  # 1000 px about (8, 8)


def test_clip_is_torchvisions_for_each_image_of_a_batch() -> None:
    generator = torch.Generator().manual_seed(3)
    sizes = torch.tensor([[100, 300], [250, 40], [1, 1]])
    boxes = torch.stack([boxes_in(generator, 200, 300) - 50 for _ in sizes])
    found = clip(boxes, sizes[:, None])
    for boxes_of, size, clipped in zip(boxes, sizes.tolist(), found, strict=True):
        assert torch.equal(clipped, clip_boxes_to_image(boxes_of, tuple(size)))


@pytest.mark.parametrize("side", [1e-3, 1e-2, 20.0])
def test_large_enough_keeps_what_torchvision_keeps(side: float) -> None:
    generator = torch.Generator().manual_seed(4)
    boxes = torch.cat(
        [
            boxes_in(generator, 300, 100),
            torch.tensor([[5.0, 5, 5, 9], [5.0, 5, 9, 5], [0.0, 0, side, side], [9.0, 9, 2, 2]]),
        ]
    )
    assert torch.equal(large_enough(boxes, side).nonzero()[:, 0], remove_small_boxes(boxes, side))
