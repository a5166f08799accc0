"""Boxes and 28x28 masks to COCO run-length encoding, without a full-size mask.

COCO's RLE runs down the columns of the image, alternating zeros and ones. A mask is pasted only inside
its box (torchvision's rule); the runs of those columns are placed in the image by arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn import functional as F

from model.errors import RleError


def encode(
    masks: Tensor | np.ndarray, boxes: Tensor | np.ndarray, height: int, width: int, threshold: float = 0.5
) -> list[str]:
    """COCO compressed `counts` of each mask; `size` is [height, width].

    The same strings as torchvision's `paste_masks_in_image`, `> threshold` and `pycocotools.mask.encode`.

    Args:
        masks: float32 (N, M, M), probabilities over the box.
        boxes: float32 (N, 4) xyxy, pixels of the image.
        height: pixels.
        width: pixels.

    Raises:
        RleError: NaN in masks or boxes, or shapes that disagree.
    """
    return [c.decode() for c in _counts(runs(masks, boxes, height, width, threshold), height, width)]


def encode_with_area(
    masks: Tensor | np.ndarray, boxes: Tensor | np.ndarray, height: int, width: int, threshold: float = 0.5
) -> tuple[list[str], list[int]]:
    """As `encode`, with the pixels of each mask (the sum of its runs of ones)."""
    lengths = runs(masks, boxes, height, width, threshold)
    return [c.decode() for c in _counts(lengths, height, width)], [int(r[1::2].sum()) for r in lengths]


def runs(
    masks: Tensor | np.ndarray, boxes: Tensor | np.ndarray, height: int, width: int, threshold: float
) -> list[np.ndarray]:
    """Run lengths of each mask, int64, zeros first; see `encode` for the arguments."""
    masks, boxes = torch.as_tensor(masks, dtype=torch.float32), torch.as_tensor(boxes, dtype=torch.float32)
    if masks.ndim != 3 or boxes.shape != (len(masks), 4) or masks.shape[1] != masks.shape[2]:
        raise RleError(f"masks {tuple(masks.shape)} and boxes {tuple(boxes.shape)} are not (N, M, M) and (N, 4)")
    if masks.isnan().any() or not boxes.isfinite().all():
        raise RleError("masks or boxes hold NaN or infinity")
    padded = F.pad(masks, (1, 1, 1, 1))
    corners = _expanded(boxes, padded.shape[-1] / masks.shape[-1]) if len(masks) else boxes.long()
    return [
        _runs_of_patch(*_paste(mask, box, height, width, threshold), height, width)
        for mask, box in zip(padded, corners.tolist(), strict=True)
    ]


def _expanded(boxes: Tensor, scale: float) -> Tensor:
    """Boxes grown about their centre by the padding of the mask, cut toward zero to int64."""
    half = (boxes[:, 2:] - boxes[:, :2]) * 0.5
    centre = (boxes[:, 2:] + boxes[:, :2]) * 0.5
    half = half * scale
    return torch.cat([centre - half, centre + half], dim=1).to(torch.int64)


def _paste(mask: Tensor, box: Sequence[int], height: int, width: int, threshold: float) -> tuple[np.ndarray, int, int]:
    """The part of a pasted mask inside the image: bool (h, w), and its top and left pixel."""
    left, top, right, bottom = box
    size = (max(bottom - top + 1, 1), max(right - left + 1, 1))
    x0, x1 = max(left, 0), min(right + 1, width)
    y0, y1 = max(top, 0), min(bottom + 1, height)
    if x1 <= x0 or y1 <= y0:
        return np.zeros((0, 0), bool), 0, 0
    pasted = F.interpolate(mask[None, None], size=size, mode="bilinear")[0, 0]
    return (pasted[y0 - top : y1 - top, x0 - left : x1 - left] > threshold).numpy(), y0, x0


def _runs_of_patch(patch: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    """Column-major run lengths of an image that is zero but for `patch` at (top, left)."""
    fenced = np.zeros((patch.shape[1], patch.shape[0] + 2), np.int8)
    fenced[:, 1:-1] = patch.T
    column, change = np.nonzero(np.diff(fenced, axis=1))  # alternately where ones begin and end
    edges = (column + left) * height + change + top
    # A run that reaches the bottom of a column goes on at the top of the next: both edges vanish.
    inner = np.flatnonzero(edges[1:-1:2] == edges[2::2]) * 2 + 1
    edges = np.delete(edges, np.concatenate([inner, inner + 1]))
    lengths = np.diff(np.concatenate([[0], edges, [height * width]]))
    return lengths[:-1] if len(lengths) > 1 and lengths[-1] == 0 else lengths


def _counts(lengths: Sequence[np.ndarray], height: int, width: int) -> list[bytes]:
    """The runs as COCO's compressed strings (made by pycocotools)."""
    if not lengths:
        return []
    raw = [{"counts": r.tolist(), "size": [height, width]} for r in lengths]
    return [rle["counts"] for rle in coco_mask.frPyObjects(raw, height, width)]
