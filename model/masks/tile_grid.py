"""Places the tiles of a very large image. Needs no PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Box = tuple[int, int, int, int]  # left, top, right, bottom; pixels, the last two exclusive
Crop = Callable[[Box], np.ndarray]  # reads a part of an image, uint8 (h, w, 3)


@dataclass(frozen=True)
class Tiling:
    """Tiles of `size` pixels a side that overlap by at least `overlap` pixels.

    An object no larger than the overlap is whole in at least one tile.
    """

    size: int
    overlap: int

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.size:
            raise ValueError(f"an overlap of {self.overlap} pixels does not fit tiles of {self.size}")

    def needed(self, height: int, width: int) -> bool:
        """Returns whether an image is larger than one tile."""
        return max(height, width) > self.size

    def grid(self, height: int, width: int) -> list[Box]:
        """Returns the tiles of an image, row by row.

        The last tile of a row or column moves inward, so that every tile has its full size.
        """
        return [
            (x, y, min(x + self.size, width), min(y + self.size, height))
            for y in self._starts(height)
            for x in self._starts(width)
        ]

    def _starts(self, extent: int) -> list[int]:
        last = max(extent - self.size, 0)
        return [*range(0, last, self.size - self.overlap), last]
