"""Boxes and 28x28 masks to COCO run-length encoding, without a full-size mask.

COCO's RLE runs down the columns of the image, alternating zeros and ones, zeros first. Its string has for
each run five bits a character (low ones first, then the sign), and from the fourth run on the difference
to the run two before. `model.masks.boundaries` finds the runs; two rules say how a mask lies over its box.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.errors import RleError
from model.masks import boundaries
from model.masks.paste_rules import PASTE_RULES

LIMIT = 2**30  # pixels from the image's corner: a box beyond is no box of an image
COLUMNS_PER_THREAD = 8192  # of boxes: some milliseconds of work, beside which starting a thread is nothing
RUN = 7  # characters of the longest run: 32 bits and a sign


def encode(
    masks: Tensor | np.ndarray,
    boxes: Tensor | np.ndarray,
    height: int,
    width: int,
    threshold: float = 0.5,
    paste: str = "torchvision",
) -> list[str]:
    """COCO compressed `counts` of each mask; `size` is [height, width].

    Byte for byte the strings that pasting with PyTorch on a CPU and `pycocotools.mask.encode` give.

    Args:
        masks: (N, M, M), probabilities over the box; float32, other types are converted.
        boxes: (N, 4) xyxy, pixels of the image; likewise.
        height: pixels.
        width: pixels.
        threshold: 0..1.
        paste: "torchvision": its `paste_masks_in_image` and `> threshold`; "detectron2": pixel centres in
            the exact box and `>= threshold`.

    Raises:
        RleError: NaN or infinity in masks or boxes, or arguments that do not fit together.
    """
    return [counts for counts, _ in _encoded(masks, boxes, height, width, threshold, paste)]


def encode_with_area(
    masks: Tensor | np.ndarray,
    boxes: Tensor | np.ndarray,
    height: int,
    width: int,
    threshold: float = 0.5,
    paste: str = "torchvision",
) -> tuple[list[str], list[int]]:
    """As `encode`, with the pixels of each mask (the sum of its runs of ones)."""
    encoded = _encoded(masks, boxes, height, width, threshold, paste)
    return [counts for counts, _ in encoded], [area for _, area in encoded]


def _encoded(
    masks: Tensor | np.ndarray, boxes: Tensor | np.ndarray, height: int, width: int, threshold: float, paste: str
) -> list[tuple[str, int]]:
    """Counts and area of each mask; masks of large images on as many threads as PyTorch has."""
    fenced, corners = _checked(masks, boxes, height, width, threshold, paste)
    placed = list(PASTE_RULES[paste].placed(corners, fenced.shape[1]))
    fused, limit = _fused(paste), np.float32(threshold)
    columns = float(np.maximum(corners[:, 2] - corners[:, 0], 0).sum())
    threads = max(1, min(torch.get_num_threads(), int(columns // COLUMNS_PER_THREAD)))

    def some(start: int) -> list[tuple[str, int]]:
        chosen = slice(start, None, threads)
        return _strings(fenced[chosen], placed[chosen], height, width, limit, paste, fused)

    if threads == 1:
        return some(0)
    with ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(some, range(threads)))
    return [parts[i % threads][i // threads] for i in range(len(placed))]


def _strings(
    fenced: np.ndarray,
    placed: list[Any],
    height: int,
    width: int,
    limit: np.float32,
    paste: str,
    fused: bool | None,
) -> list[tuple[str, int]]:
    rule, out, result = PASTE_RULES[paste], np.empty(0, np.uint8), []
    for mask, box in zip(fenced, placed, strict=True):
        if fused is None:
            edges = rule.pasted_edges(mask, box, height, width, limit)
        else:
            edges = rule.edges(mask.T, box, height, width, limit, fused)
        if len(out) < (len(edges) + 1) * RUN:
            out = np.empty(2 * (len(edges) + 1) * RUN, np.uint8)
        end, area = boundaries.packed(edges, height * width, out, 0)
        result.append((out[:end].tobytes().decode(), int(area)))
    return result


def _checked(
    masks: Tensor | np.ndarray, boxes: Tensor | np.ndarray, height: int, width: int, threshold: float, paste: str
) -> tuple[np.ndarray, np.ndarray]:
    """Masks float32 (N, M+2, M+2) with a fence of zeros, and boxes float32 (N, 4)."""
    masks, boxes = _float32(masks), _float32(boxes)
    if masks.ndim != 3 or boxes.shape != (len(masks), 4) or masks.shape[1] != masks.shape[2] or not masks.shape[1]:
        raise RleError(f"masks {masks.shape} and boxes {boxes.shape} are not (N, M, M), M at least 1, and (N, 4)")
    if not np.isfinite(masks).all() or not np.isfinite(boxes).all():
        raise RleError("masks or boxes hold NaN or infinity")
    if height < 1 or width < 1 or height * width >= 2**32:
        raise RleError(f"an image of {height}x{width} has no RLE: it needs pixels, and less than 2^32 of them")
    if (farthest := np.abs(boxes).max(initial=0)) > LIMIT:
        raise RleError(f"boxes {farthest} pixels from the image's corner have no RLE: at most 2^30")
    if not 0 <= threshold <= 1 or paste not in PASTE_RULES:
        raise RleError(f"threshold {threshold} is not in 0..1, or paste {paste!r} not of {', '.join(PASTE_RULES)}")
    return np.pad(masks, ((0, 0), (1, 1), (1, 1))), boxes


def _float32(values: Tensor | np.ndarray) -> np.ndarray:
    """As an array; a tensor may be of a type that NumPy does not have."""
    return values.detach().cpu().float().numpy() if isinstance(values, Tensor) else np.asarray(values, np.float32)


@cache
def _fused(paste: str) -> bool | None:
    """Whether this build of PyTorch rounds a * b + c once, as processors with FMA do; None if it does neither.

    Asked of PyTorch itself: the pasted values of a few masks must be the compiled ones to the last bit.
    Where they are not, masks are pasted by PyTorch inside their box, which is slower.
    """
    rule, generator = PASTE_RULES[paste], torch.Generator().manual_seed(0)
    mask = np.pad(torch.rand(28, 28, generator=generator).numpy(), 1)
    boxes = np.array([[3.3, 2.1, 40.7, 61.2], [0.4, 5.2, 190.9, 77.7], [7.7, 1.5, 9.1, 180.3]], np.float32)
    placed = list(rule.placed(boxes, 30))
    for fused in (True, False):
        if all(np.array_equal(rule.values(mask.T, b, 200, 200, fused), rule.pasted(mask, b, 200, 200)) for b in placed):
            return fused
    return None
