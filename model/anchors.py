"""Anchors: the reference boxes that the RPN scores and moves (Ren et al. 2015, arXiv:1506.01497)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from model.preset import Preset


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float], rounding: bool) -> Tensor:
    """The k anchors of one location, centred on (0, 0).

    Args:
        sizes: sides of the square anchor of equal area, input pixels.
        ratios: height / width.
        rounding: round corners to whole pixels, as torchvision does.

    Returns:
        float32 (k, 4) xyxy, ratio by ratio, sizes inside.
    """
    root = torch.sqrt(torch.tensor(ratios, dtype=torch.float32))
    scale = torch.tensor(sizes, dtype=torch.float32)
    heights = (root[:, None] * scale).flatten()
    widths = ((1 / root)[:, None] * scale).flatten()
    anchors = torch.stack([-widths, -heights, widths, heights], dim=1) / 2
    return anchors.round() if rounding else anchors


def pyramid_anchors(preset: Preset, grids: Sequence[tuple[int, int]], height: int, width: int) -> list[Tensor]:
    """All anchors of an input of height x width pixels, one tensor a level.

    Args:
        grids: (rows, columns) of the feature map of each RPN level, finest first.

    Returns:
        For each level float32 (rows * columns * k, 4) xyxy in input pixels; location by location in
        row-major order, the k anchors of a location together.
    """
    levels = []
    for level, (rows, columns) in enumerate(grids):
        cell = cell_anchors(preset.anchor_sizes[level], preset.anchor_ratios[level], preset.anchor_rounding)
        if preset.anchor_stride == "grid":
            stride_y, stride_x = height // rows, width // columns
        else:
            stride_y = stride_x = 4 << level
        y, x = torch.meshgrid(torch.arange(rows) * stride_y, torch.arange(columns) * stride_x, indexing="ij")
        shifts = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
        levels.append((shifts + cell).reshape(-1, 4))
    return levels
