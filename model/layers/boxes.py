"""Box arithmetic in float32: decoding, clipping and the size filter."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def decode(
    deltas: Tensor, reference: Tensor, weights: Sequence[float], clamp: float, clamp_low: float = -math.inf
) -> Tensor:
    """Moves reference boxes by predicted deltas (Girshick et al. 2014, arXiv:1311.2524).

    Args:
        deltas: (..., 4) as (dx, dy, dw, dh), scaled by `weights`.
        reference: (..., 4) anchors or proposals, xyxy.
        weights: four numbers that the deltas are divided by.
        clamp: upper bound of dw and dh after unscaling, so that exp() cannot overflow.
        clamp_low: lower bound of the same.

    Returns:
        (..., 4) xyxy in the coordinate frame of `reference`.
    """
    width, height = reference[..., 2] - reference[..., 0], reference[..., 3] - reference[..., 1]
    x, y = reference[..., 0] + 0.5 * width, reference[..., 1] + 0.5 * height
    dx, dy, dw, dh = (deltas[..., i] / weights[i] for i in range(4))
    x, y = dx * width + x, dy * height + y
    half_w = torch.exp(dw.clamp(clamp_low, clamp)) * width * 0.5
    half_h = torch.exp(dh.clamp(clamp_low, clamp)) * height * 0.5
    return torch.stack([x - half_w, y - half_h, x + half_w, y + half_h], dim=-1)


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Clips boxes (..., 4) xyxy to images of `sizes` (..., 2) (height, width), pixels."""
    width, height = sizes[..., 1].to(boxes), sizes[..., 0].to(boxes)
    limit = torch.stack([width, height, width, height], dim=-1)
    return torch.minimum(boxes.clamp(min=0), limit)


def large_enough(boxes: Tensor, min_side: float) -> Tensor:
    """Returns bool (...): whether both sides of a box (..., 4) xyxy are at least `min_side` pixels."""
    return ((boxes[..., 2:] - boxes[..., :2]) >= min_side).all(dim=-1)
