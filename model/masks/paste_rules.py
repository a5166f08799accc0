"""How a mask lies over its box: the rules of torchvision and detectron2.

A rule says which pixels of the image a box touches and where they fall in the mask; the compiled code of
`model.masks.boundaries` does the rest. Each rule can also paste with PyTorch's operators, which define it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from model.masks.boundaries import (
    CORNERS,
    NESTED,
    PRODUCTS,
    SMALL,
    Axis,
    grid_sample_axis,
    interpolate_axis,
    mask_boundaries,
    pasted_values,
)

Region = tuple[int, int, int, int]  # left, top, right, bottom; the last two exclusive
Arithmetic = tuple[int, bool]  # the order of sums, and whether PyTorch rounds a * b + c once


class PasteRule(ABC):
    """A rule for pasting masks into boxes.

    Masks are float32 (S, S) with a border of zeros. A placed box is what `place` makes of a box.
    """

    inclusive: bool  # whether a value equal to the threshold is inside

    @abstractmethod
    def place(self, boxes: np.ndarray, side: int) -> Iterable[Any]:
        """Rounds boxes, float32 (N, 4) xyxy, for masks of `side` values including the border."""

    @abstractmethod
    def region(self, box: Any, height: int, width: int) -> Region:
        """Returns the pixels that a placed box may touch; empty if right <= left or bottom <= top."""

    @abstractmethod
    def axes(self, box: Any, region: Region, side: int, fused: bool) -> tuple[Axis, Axis, Arithmetic]:
        """Returns where the region's columns and rows fall in the mask, and how values are rounded.

        Args:
            side: values of the mask including the border.
            fused: whether this build of PyTorch rounds a * b + c once.
        """

    @abstractmethod
    def paste_with_pytorch(self, mask: np.ndarray, box: Any, height: int, width: int) -> np.ndarray:
        """Returns the values of the region, float32 (rows, columns), computed by PyTorch."""

    def paste(self, columns: np.ndarray, box: Any, height: int, width: int, fused: bool) -> np.ndarray:
        """Returns the same by compiled code; `columns` is the mask transposed."""
        x, y, arithmetic = self.axes(box, self.region(box, height, width), len(columns), fused)
        return pasted_values(np.ascontiguousarray(columns), x, y, arithmetic)

    def boundaries(
        self, columns: np.ndarray, box: Any, height: int, width: int, threshold: np.float32, fused: bool
    ) -> np.ndarray:
        """Returns where ones and zeros begin, int64, in COCO's order of pixels; `columns` is the mask transposed."""
        region = left, top, right, bottom = self.region(box, height, width)
        if right <= left or bottom <= top:
            return np.empty(0, np.int64)
        x, y, arithmetic = self.axes(box, region, len(columns), fused)
        comparison = (self.inclusive, *arithmetic)
        return mask_boundaries(np.ascontiguousarray(columns), x, y, (left, top, height), threshold, comparison)

    def boundaries_with_pytorch(
        self, mask: np.ndarray, box: Any, height: int, width: int, threshold: np.float32
    ) -> np.ndarray:
        """Returns the same as `boundaries`, computed by PyTorch from every pixel of the region."""
        left, top, right, bottom = self.region(box, height, width)
        if right <= left or bottom <= top:
            return np.empty(0, np.int64)
        values = self.paste_with_pytorch(mask, box, height, width)
        inside = values >= threshold if self.inclusive else values > threshold
        bordered = np.zeros((inside.shape[1], inside.shape[0] + 2), np.int8)
        bordered[:, 1:-1] = inside.T
        column, row = np.nonzero(np.diff(bordered, axis=1))  # alternately where ones begin and end
        boundaries = (column + left) * height + row + top
        # A run that reaches the end of a column continues at the top of the next: both boundaries vanish.
        inner = np.flatnonzero(boundaries[1:-1:2] == boundaries[2::2]) * 2 + 1
        return np.delete(boundaries, np.concatenate([inner, inner + 1]))


class TorchvisionPaste(PasteRule):
    """torchvision's `paste_masks_in_image`: resizes the bordered mask to the enlarged box, cut to whole pixels."""

    inclusive = False

    def place(self, boxes: np.ndarray, side: int) -> Iterable[Region]:
        half = (boxes[:, 2:] - boxes[:, :2]) * np.float32(0.5)
        centre = (boxes[:, 2:] + boxes[:, :2]) * np.float32(0.5)
        half = half * np.float32(side / (side - 2))
        return np.concatenate([centre - half, centre + half], axis=1).astype(np.int64).tolist()

    def region(self, box: Region, height: int, width: int) -> Region:
        return max(box[0], 0), max(box[1], 0), min(box[2] + 1, width), min(box[3] + 1, height)

    def axes(self, box: Region, region: Region, side: int, fused: bool) -> tuple[Axis, Axis, Arithmetic]:
        columns, rows = self.resized_mask(box)
        x = interpolate_axis(region[0], region[2], box[0], columns, side, fused)
        y = interpolate_axis(region[1], region[3], box[1], rows, side, fused)
        return x, y, (PRODUCTS if columns + rows <= SMALL else NESTED, fused)

    def paste_with_pytorch(self, mask: np.ndarray, box: Region, height: int, width: int) -> np.ndarray:
        columns, rows = self.resized_mask(box)
        x0, y0, x1, y1 = self.region(box, height, width)
        values = F.interpolate(torch.from_numpy(mask)[None, None], size=(rows, columns), mode="bilinear")[0, 0]
        return values[y0 - box[1] : y1 - box[1], x0 - box[0] : x1 - box[0]].numpy()

    @staticmethod
    def resized_mask(box: Region) -> tuple[int, int]:
        """Returns the columns and rows of the resized mask; the last pixels of a placed box are inclusive."""
        return max(box[2] - box[0] + 1, 1), max(box[3] - box[1] + 1, 1)


class Detectron2Paste(PasteRule):
    """detectron2's `paste_masks_in_image`: samples the mask at the centre of every pixel near the box."""

    inclusive = True

    def place(self, boxes: np.ndarray, side: int) -> Iterable[np.ndarray]:
        return boxes

    def region(self, box: np.ndarray, height: int, width: int) -> Region:
        left, top = np.maximum(np.floor(box[:2]) - 1, 0).astype(int)
        right, bottom = np.minimum(np.ceil(box[2:]) + 1, (width, height)).astype(int)
        return int(left), int(top), int(right), int(bottom)

    def axes(self, box: np.ndarray, region: Region, side: int, fused: bool) -> tuple[Axis, Axis, Arithmetic]:
        x = grid_sample_axis(region[0], region[2], box[0], box[2], side, fused)
        y = grid_sample_axis(region[1], region[3], box[1], box[3], side, fused)
        return x, y, (CORNERS, fused)

    def paste_with_pytorch(self, mask: np.ndarray, box: np.ndarray, height: int, width: int) -> np.ndarray:
        left, top, right, bottom = self.region(box, height, width)
        x0, y0, x1, y1 = torch.from_numpy(box)
        x = (torch.arange(left, right) + 0.5 - x0) / (x1 - x0) * 2 - 1
        y = (torch.arange(top, bottom) + 0.5 - y0) / (y1 - y0) * 2 - 1
        grid = torch.stack([x[None].expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=-1)
        inner = torch.from_numpy(mask)[None, None, 1:-1, 1:-1].contiguous()
        return F.grid_sample(inner, grid[None], align_corners=False)[0, 0].numpy()


PASTE_RULES: dict[str, PasteRule] = {"torchvision": TorchvisionPaste(), "detectron2": Detectron2Paste()}
