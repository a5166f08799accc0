"""How a mask lies over its box: torchvision's rule and detectron2's.

Each rule says which pixels of the image it touches and where they fall in the mask, for the compiled code
of `model.masks.boundaries`; and does the same with PyTorch's own operators, which is the definition.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from model.masks import boundaries

Region = tuple[int, int, int, int]  # left, top, right, bottom; the last two exclusive


class PasteRule(ABC):
    """A rule; a placed box is whatever `placed` makes of a box. Masks are float32 (S, S), fenced by zeros."""

    inclusive: bool  # whether a value equal to the threshold is inside

    @abstractmethod
    def placed(self, boxes: np.ndarray, side: int) -> Iterable[Any]:
        """Boxes float32 (N, 4) xyxy as this rule rounds them, for masks of `side` values, the fence included."""

    @abstractmethod
    def region(self, box: Any, height: int, width: int) -> Region:
        """The pixels of the image that a placed box may touch; empty if right <= left or bottom <= top."""

    @abstractmethod
    def tables(self, box: Any, region: Region, side: int, fused: bool) -> tuple[Any, Any, int]:
        """The tables of the region's columns and rows and the order of the sums, for `crossings`."""

    @abstractmethod
    def pasted(self, mask: np.ndarray, box: Any, height: int, width: int) -> np.ndarray:
        """The values over the region, float32 (rows, columns), by PyTorch."""

    def values(self, columns: np.ndarray, box: Any, height: int, width: int, fused: bool) -> np.ndarray:
        """The same by compiled code; `columns` is the mask transposed."""
        x, y, order = self.tables(box, self.region(box, height, width), len(columns), fused)
        return boundaries.sampled(np.ascontiguousarray(columns), x, y, order, fused)

    def edges(
        self, columns: np.ndarray, box: Any, height: int, width: int, threshold: np.float32, fused: bool
    ) -> np.ndarray:
        """Where ones and zeros begin, int64, in COCO's order of pixels; `columns` is the mask transposed."""
        region = left, top, right, bottom = self.region(box, height, width)
        if right <= left or bottom <= top:
            return np.empty(0, np.int64)
        x, y, order = self.tables(box, region, len(columns), fused)
        columns = np.ascontiguousarray(columns)
        return boundaries.crossings(columns, x, y, left, top, height, threshold, self.inclusive, order, fused)

    def pasted_edges(self, mask: np.ndarray, box: Any, height: int, width: int, threshold: np.float32) -> np.ndarray:
        """The same by PyTorch."""
        left, top, right, bottom = self.region(box, height, width)
        if right <= left or bottom <= top:
            return np.empty(0, np.int64)
        values = self.pasted(mask, box, height, width)
        inside = values >= threshold if self.inclusive else values > threshold
        fenced = np.zeros((inside.shape[1], inside.shape[0] + 2), np.int8)
        fenced[:, 1:-1] = inside.T
        column, row = np.nonzero(np.diff(fenced, axis=1))  # alternately where ones begin and end
        edges = (column + left) * height + row + top
        # A run that reaches the bottom of a column goes on at the top of the next: both edges vanish.
        inner = np.flatnonzero(edges[1:-1:2] == edges[2::2]) * 2 + 1
        return np.delete(edges, np.concatenate([inner, inner + 1]))


class TorchvisionPaste(PasteRule):
    """`paste_masks_in_image`: the fenced mask resized to a box grown with it and cut to whole pixels."""

    inclusive = False

    def placed(self, boxes: np.ndarray, side: int) -> Iterable[Region]:
        half = (boxes[:, 2:] - boxes[:, :2]) * np.float32(0.5)
        centre = (boxes[:, 2:] + boxes[:, :2]) * np.float32(0.5)
        half = half * np.float32(side / (side - 2))
        return np.concatenate([centre - half, centre + half], axis=1).astype(np.int64).tolist()

    def region(self, box: Region, height: int, width: int) -> Region:
        return max(box[0], 0), max(box[1], 0), min(box[2] + 1, width), min(box[3] + 1, height)

    def tables(self, box: Region, region: Region, side: int, fused: bool) -> tuple[Any, Any, int]:
        columns, rows = self.size(box)
        x = boundaries.interpolated_axis(region[0], region[2], box[0], columns, side, fused)
        y = boundaries.interpolated_axis(region[1], region[3], box[1], rows, side, fused)
        return x, y, boundaries.PRODUCTS if columns + rows <= boundaries.SMALL else boundaries.NESTED

    def pasted(self, mask: np.ndarray, box: Region, height: int, width: int) -> np.ndarray:
        columns, rows = self.size(box)
        x0, y0, x1, y1 = self.region(box, height, width)
        values = F.interpolate(torch.from_numpy(mask)[None, None], size=(rows, columns), mode="bilinear")[0, 0]
        return values[y0 - box[1] : y1 - box[1], x0 - box[0] : x1 - box[0]].numpy()

    @staticmethod
    def size(box: Region) -> tuple[int, int]:
        """Columns and rows that the mask is resized to; the last pixels of a placed box are inclusive."""
        return max(box[2] - box[0] + 1, 1), max(box[3] - box[1] + 1, 1)


class Detectron2Paste(PasteRule):
    """`paste_masks_in_image` of detectron2: the mask sampled at the centre of every pixel near the box."""

    inclusive = True

    def placed(self, boxes: np.ndarray, side: int) -> Iterable[np.ndarray]:
        return boxes

    def region(self, box: np.ndarray, height: int, width: int) -> Region:
        left, top = np.maximum(np.floor(box[:2]) - 1, 0).astype(int)
        right, bottom = np.minimum(np.ceil(box[2:]) + 1, (width, height)).astype(int)
        return int(left), int(top), int(right), int(bottom)

    def tables(self, box: np.ndarray, region: Region, side: int, fused: bool) -> tuple[Any, Any, int]:
        x = boundaries.sampled_axis(region[0], region[2], box[0], box[2], side, fused)
        y = boundaries.sampled_axis(region[1], region[3], box[1], box[3], side, fused)
        return x, y, boundaries.CORNERS

    def pasted(self, mask: np.ndarray, box: np.ndarray, height: int, width: int) -> np.ndarray:
        left, top, right, bottom = self.region(box, height, width)
        x0, y0, x1, y1 = torch.from_numpy(box)
        x = (torch.arange(left, right) + 0.5 - x0) / (x1 - x0) * 2 - 1
        y = (torch.arange(top, bottom) + 0.5 - y0) / (y1 - y0) * 2 - 1
        grid = torch.stack([x[None].expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=-1)
        inner = torch.from_numpy(mask)[None, None, 1:-1, 1:-1].contiguous()
        return F.grid_sample(inner, grid[None], align_corners=False)[0, 0].numpy()


PASTE_RULES: dict[str, PasteRule] = {"torchvision": TorchvisionPaste(), "detectron2": Detectron2Paste()}
