"""Box arithmetic in float32: decoding, clipping, and NMS over a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from model.layers.torchvision_ops import operators


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

    Args:
        boxes: float32 (N, 4) xyxy.
        scores: float32 (N,).
        image: int64 (N,), ascending: which image a box belongs to.
        group: int64 (N,): boxes of different groups (levels, classes) never suppress each other.
        threshold: IoU above which the lower score goes.

    Returns:
        int64 indices, by image and best first.
    """
    if not len(boxes):
        return image.new_zeros(0)
    way = several_images_a_call if boxes.is_cuda else image_by_image
    return way(boxes, scores, image, group, threshold, count)


def image_by_image(boxes: Tensor, scores: Tensor, image: Tensor, group: Tensor, threshold: float, count: int) -> Tensor:
    """`best_after_nms` as a CPU does it: by torchvision's own `batched_nms`.

    Its kernel compares all pairs, so that one call for several images would be slower, and equal scores end in
    the order in which torchvision leaves them.
    """
    counts = torch.bincount(image).tolist()
    parts = zip(*(t.split(counts) for t in (boxes, scores, group)), strict=True)
    kept = [operators().batched_nms(*part, threshold)[:count] for part in parts]
    return torch.cat([k + start for k, start in zip(kept, accumulate([0, *counts[:-1]]), strict=True)])


def several_images_a_call(
    boxes: Tensor, scores: Tensor, image: Tensor, group: Tensor, threshold: float, count: int, at_once: int = 20_000
) -> Tensor:
    """`best_after_nms` as a GPU does it: few calls, each of which is waited for, the groups moved apart.

    The offsets are float64, because in float32 those of thousands of (image, class) groups would round the boxes
    by an eighth of a pixel. All pairs of a call are compared, and a bit is kept for each: 50 MB for `at_once` boxes.

    Args:
        at_once: boxes of a call, at most, where they are not of one image.
    """
    calls = _calls(torch.bincount(image).tolist(), at_once)
    apart = (image * (group.max() + 1) + group).double() * (boxes.max().double() + 1)
    moved, exact = (boxes.double() + apart[:, None]).split(calls), scores.double().split(calls)
    kept = [operators().nms(*part, threshold) for part in zip(moved, exact, strict=True)]  # best first
    order = torch.cat([k + start for k, start in zip(kept, accumulate([0, *calls[:-1]]), strict=True)])
    order = order[torch.argsort(image[order], stable=True)]
    image = image[order]
    rank = torch.arange(len(image), device=image.device) - torch.searchsorted(image, image)
    return order[rank < count]


def _calls(counts: Sequence[int], at_once: int) -> list[int]:
    """Boxes of each call: neighbouring images together as long as they are at most `at_once` boxes."""
    calls = [0]
    for number in counts:
        if calls[-1] and calls[-1] + number > at_once:
            calls.append(0)
        calls[-1] += number
    return calls
