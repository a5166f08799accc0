"""Box arithmetic in float32: decoding, clipping, and NMS over a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms


def decode(
    deltas: Tensor, reference: Tensor, weights: Sequence[float], clamp: float, clamp_low: float = -math.inf
) -> Tensor:
    """Moves reference boxes by the deltas a network predicts (Girshick et al. 2014, arXiv:1311.2524).

    Args:
        deltas: (..., 4) as (dx, dy, dw, dh), scaled by `weights`.
        reference: (..., 4) anchors or proposals, xyxy.
        clamp: upper bound on dw and dh after unscaling, so that exp() cannot overflow.
        clamp_low: lower bound.

    Returns:
        (..., 4) xyxy in the frame of `reference`.
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


def at_least(boxes: Tensor, side: float) -> Tensor:
    """Bool (...): both sides of the box are at least `side` pixels."""
    return ((boxes[..., 2:] - boxes[..., :2]) >= side).all(dim=-1)


def best_after_nms(boxes: Tensor, scores: Tensor, image: Tensor, group: Tensor, threshold: float, count: int) -> Tensor:
    """Non-maximum suppression inside each group of each image, then each image's `count` best.

    A GPU takes one call for the whole batch, the groups moved apart; the offsets are float64, because
    in float32 those of thousands of (image, class) groups would round the boxes by an eighth of a
    pixel. A CPU takes torchvision's own `batched_nms` image by image: its kernel compares all pairs, so
    one call would be slower, and equal scores then end in the order in which torchvision leaves them.

    Args:
        boxes: float32 (N, 4) xyxy.
        scores: float32 (N,).
        image: int64 (N,), ascending on a CPU: which image a box belongs to.
        group: int64 (N,): boxes of different groups (levels, classes) never suppress each other.
        threshold: IoU above which the lower score goes.

    Returns:
        int64 indices, by image and best first.
    """
    if not len(boxes):
        return image.new_zeros(0)
    if not boxes.is_cuda:
        counts = torch.bincount(image).tolist()
        parts = zip(*(t.split(counts) for t in (boxes, scores, group)), strict=True)
        kept = [batched_nms(*part, threshold)[:count] for part in parts]
        return torch.cat([k + start for k, start in zip(kept, accumulate([0, *counts[:-1]]), strict=True)])
    offset = (image * (group.max() + 1) + group).double() * (boxes.max().double() + 1)
    order = nms(boxes.double() + offset[:, None], scores.double(), threshold)  # best first
    order = order[torch.argsort(image[order], stable=True)]
    image = image[order]
    rank = torch.arange(len(image), device=image.device) - torch.searchsorted(image, image)
    return order[rank < count]
