"""Encodes boxes and 28x28 masks as COCO run-length encoding, without a full-size mask.

COCO's RLE follows the columns of the image and alternates runs of zeros and ones, zeros first. Its string
stores each run in characters of five bits (low bits first, then the sign); from the fourth run on it stores
the difference to the run two before. `model.masks.boundaries` finds the runs, and a rule of
`model.masks.paste_rules` says how a mask lies over its box.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.errors import RleError
from model.masks.boundaries import write_counts
from model.masks.paste_rules import PASTE_RULES, PasteRule

MAX_COORDINATE = 2**30  # pixels from the image's corner; no box of an image lies further away
COLUMNS_PER_THREAD = 8192  # of boxes: some milliseconds of work, far more than starting a thread takes
CHARACTERS_PER_RUN = 7  # of the longest run: 32 bits and a sign


@dataclass(frozen=True)
class _Encoder:
    """What is the same for all masks of an image.

    Attributes:
        fused: how PyTorch rounds, see `_pytorch_rounds_once`.
    """

    rule: PasteRule
    height: int
    width: int
    threshold: np.float32
    fused: bool | None

    def encode(self, masks: np.ndarray, placed_boxes: list[Any]) -> list[tuple[str, int]]:
        """Returns counts and area of each mask, float32 (N, S, S) with a border of zeros."""
        out, result = np.empty(0, np.uint8), []
        for mask, box in zip(masks, placed_boxes, strict=True):
            boundaries = self._boundaries(mask, box)
            if len(out) < (len(boundaries) + 1) * CHARACTERS_PER_RUN:
                out = np.empty(2 * (len(boundaries) + 1) * CHARACTERS_PER_RUN, np.uint8)
            length, area = write_counts(boundaries, self.height * self.width, out)
            result.append((out[:length].tobytes().decode(), int(area)))
        return result

    def _boundaries(self, mask: np.ndarray, box: Any) -> np.ndarray:
        if self.fused is None:
            return self.rule.boundaries_with_pytorch(mask, box, self.height, self.width, self.threshold)
        return self.rule.boundaries(mask.T, box, self.height, self.width, self.threshold, self.fused)


def encode(
    masks: Tensor | np.ndarray,
    boxes: Tensor | np.ndarray,
    height: int,
    width: int,
    threshold: float = 0.5,
    paste: str = "torchvision",
) -> list[str]:
    """Returns the COCO compressed `counts` of each mask; their `size` is [height, width].

    The strings equal, byte for byte, those of pasting with PyTorch on a CPU and `pycocotools.mask.encode`.

    Args:
        masks: (N, M, M), probabilities over the box; converted to float32.
        boxes: (N, 4) xyxy, pixels of the image; converted to float32.
        height: of the image, pixels.
        width: of the image, pixels.
        threshold: 0..1.
        paste: "torchvision" is its `paste_masks_in_image` and `> threshold`; "detectron2" samples at pixel
            centres in the exact box and uses `>= threshold`.

    Raises:
        RleError: masks or boxes hold NaN or infinity, or the arguments do not fit together.
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
    """Returns the same as `encode`, and the number of pixels of each mask."""
    encoded = _encoded(masks, boxes, height, width, threshold, paste)
    return [counts for counts, _ in encoded], [area for _, area in encoded]


def _encoded(
    masks: Tensor | np.ndarray, boxes: Tensor | np.ndarray, height: int, width: int, threshold: float, paste: str
) -> list[tuple[str, int]]:
    """Returns counts and area of each mask; uses up to as many threads as PyTorch for large images."""
    masks, boxes = _float32(masks), _float32(boxes)
    _check(masks, boxes, height, width, threshold, paste)
    bordered = np.pad(masks, ((0, 0), (1, 1), (1, 1)))
    placed = list(PASTE_RULES[paste].place(boxes, bordered.shape[1]))
    encoder = _Encoder(PASTE_RULES[paste], height, width, np.float32(threshold), _pytorch_rounds_once(paste))
    columns = float(np.maximum(boxes[:, 2] - boxes[:, 0], 0).sum())
    threads = max(1, min(torch.get_num_threads(), int(columns // COLUMNS_PER_THREAD)))
    if threads == 1:
        return encoder.encode(bordered, placed)
    with ThreadPoolExecutor(threads) as pool:
        every = [slice(start, None, threads) for start in range(threads)]
        results = list(pool.map(lambda chosen: encoder.encode(bordered[chosen], placed[chosen]), every))
    return [results[i % threads][i // threads] for i in range(len(placed))]


def _check(masks: np.ndarray, boxes: np.ndarray, height: int, width: int, threshold: float, paste: str) -> None:
    """Raises `RleError` if the arguments of `encode` do not fit together."""
    if masks.ndim != 3 or boxes.shape != (len(masks), 4) or masks.shape[1] != masks.shape[2] or not masks.shape[1]:
        raise RleError(f"masks {masks.shape} and boxes {boxes.shape} are not (N, M, M), M at least 1, and (N, 4)")
    if not np.isfinite(masks).all() or not np.isfinite(boxes).all():
        raise RleError("masks or boxes hold NaN or infinity")
    if height < 1 or width < 1 or height * width >= 2**32:
        raise RleError(f"an image of {height}x{width} has no RLE: it needs 1 to 2^32 - 1 pixels")
    if (farthest := np.abs(boxes).max(initial=0)) > MAX_COORDINATE:
        raise RleError(f"boxes {farthest} pixels from the image's corner have no RLE: at most 2^30")
    if not 0 <= threshold <= 1:
        raise RleError(f"threshold {threshold} is not in 0..1")
    if paste not in PASTE_RULES:
        raise RleError(f"unknown paste rule {paste!r}; known: {', '.join(PASTE_RULES)}")


def _float32(values: Tensor | np.ndarray) -> np.ndarray:
    """Returns a float32 array; a tensor may have a dtype that NumPy lacks."""
    return values.detach().cpu().float().numpy() if isinstance(values, Tensor) else np.asarray(values, np.float32)


@cache
def _pytorch_rounds_once(paste: str) -> bool | None:
    """Returns whether this build of PyTorch rounds a * b + c once (FMA) or twice; None if neither fits.

    PyTorch itself is asked: compiled code must paste a few masks to the same bits. If it cannot, masks are
    pasted by PyTorch inside their boxes, which is slower.
    """
    rule, generator = PASTE_RULES[paste], torch.Generator().manual_seed(0)
    mask = np.pad(torch.rand(28, 28, generator=generator).numpy(), 1)
    boxes = np.array([[3.3, 2.1, 40.7, 61.2], [0.4, 5.2, 190.9, 77.7], [7.7, 1.5, 9.1, 180.3]], np.float32)
    expected = [(box, rule.paste_with_pytorch(mask, box, 200, 200)) for box in rule.place(boxes, 30)]
    for fused in (True, False):
        if all(np.array_equal(rule.paste(mask.T, box, 200, 200, fused), values) for box, values in expected):
            return fused
    return None
