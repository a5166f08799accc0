"""Anchors: the reference boxes that the RPN scores and moves (Ren et al. 2015, arXiv:1506.01497)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from model.preset import Preset


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float], rounding: bool) -> Tensor:
    """Returns the k anchors of one location, centred on (0, 0).

    Args:
        sizes: side lengths of the square anchor of equal area, input pixels.
        ratios: height / width.
        rounding: round corners to whole pixels, as torchvision does.

    Returns:
        float32 (k, 4) xyxy, ordered by ratio, then by size.
    """
    root = torch.sqrt(torch.tensor(ratios, dtype=torch.float32))
    scale = torch.tensor(sizes, dtype=torch.float32)
    heights = (root[:, None] * scale).flatten()
    widths = ((1 / root)[:, None] * scale).flatten()
    anchors = torch.stack([-widths, -heights, widths, heights], dim=1) / 2
    return anchors.round() if rounding else anchors


def anchors_at(preset: Preset, level: int, index: Tensor, grid: tuple[int, int], padded: tuple[int, int]) -> Tensor:
    """Returns the anchors of a level that have the given numbers.

    Only the best-scored anchors are ever used, so they are computed on demand instead of for the whole map.

    Args:
        index: int64 (...), anchor numbers. Locations count in row-major order; the k anchors of a location
            follow each other.
        grid: (rows, columns) of the level's feature map.
        padded: height and width of the network's input, pixels.

    Returns:
        float32 (..., 4) xyxy in input pixels, on the device of `index`.
    """
    rows, columns = grid
    if preset.anchor_stride == "grid":
        stride_y, stride_x = padded[0] // rows, padded[1] // columns
    else:
        stride_y = stride_x = 4 << level
    cell = _cached_cell_anchors(
        index.device, preset.anchor_sizes[level], preset.anchor_ratios[level], preset.anchor_rounding
    )
    location = index // len(cell)
    y, x = location // columns * stride_y, location % columns * stride_x
    return torch.stack([x, y, x, y], dim=-1) + cell[index % len(cell)]


@lru_cache(maxsize=64)  # an upload to a GPU waits for all work queued before it
def _cached_cell_anchors(
    device: torch.device, sizes: tuple[float, ...], ratios: tuple[float, ...], rounding: bool
) -> Tensor:
    return cell_anchors(sizes, ratios, rounding).to(device)
