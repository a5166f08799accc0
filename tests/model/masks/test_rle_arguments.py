"""Arguments that the RLE encoder refuses, and none at all."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model import RleError
from model.masks.rle import encode, encode_with_area


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"threshold": 1.5}, "threshold"), ({"threshold": float("nan")}, "threshold"), ({"paste": "caffe"}, "paste")],
)
def test_options_that_do_not_exist(options: dict, reason: str) -> None:
    with pytest.raises(RleError, match=reason):
        encode(torch.ones(1, 28, 28), torch.tensor([[1.0, 1.0, 5.0, 5.0]]), 10, 10, **options)


def test_a_box_beyond_any_image() -> None:
    with pytest.raises(RleError, match=r"boxes .* have no RLE"):
        encode(torch.ones(1, 28, 28), torch.tensor([[1.0, 1.0, 5e18, 5.0]]), 10, 10)


@pytest.mark.parametrize(("height", "width"), [(0, 10), (10, 0), (-3, -3), (70_000, 70_000)])
def test_an_image_without_pixels_or_with_too_many(height: int, width: int) -> None:
    with pytest.raises(RleError, match=f"an image of {height}x{width} has no RLE"):
        encode(torch.ones(1, 28, 28), torch.tensor([[1.0, 1.0, 5.0, 5.0]]), height, width)


def test_no_instances() -> None:
    assert encode(torch.zeros(0, 28, 28), torch.zeros(0, 4), 480, 640) == []
    assert encode_with_area(np.zeros((0, 28, 28), np.float32), np.zeros((0, 4), np.float32), 480, 640) == ([], [])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("corner", range(4))
def test_a_box_that_is_no_number(value: float, corner: int) -> None:
    boxes = torch.tensor([[1.0, 1.0, 5.0, 5.0], [1.0, 1.0, 5.0, 5.0]])
    boxes[1, corner] = value
    with pytest.raises(RleError, match="NaN"):
        encode(torch.ones(2, 28, 28), boxes, 10, 10)


def test_a_mask_with_nan() -> None:
    masks = torch.ones(2, 28, 28)
    masks[1, 27, 27] = float("nan")
    with pytest.raises(RleError, match="NaN"):
        encode(masks, torch.tensor([[1.0, 1.0, 5.0, 5.0]] * 2), 10, 10)


@pytest.mark.parametrize(
    ("masks", "boxes"),
    [
        ((2, 28, 28), (3, 4)),
        ((2, 28, 28), (2, 5)),
        ((28, 28), (1, 4)),
        ((1, 1, 28, 28), (1, 4)),
        ((1, 28, 14), (1, 4)),
        ((1, 0, 0), (1, 4)),
    ],
)
def test_shapes_that_disagree(masks: tuple[int, ...], boxes: tuple[int, ...]) -> None:
    with pytest.raises(RleError, match=r"\(N, 4\)"):
        encode(torch.zeros(masks), torch.zeros(boxes), 10, 10)
