"""Tiles of very large images: where they lie, and what the network finds in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.mask_rcnn import Detections, MaskRCNN

Box = tuple[int, int, int, int]  # left, top, right, bottom; pixels, the last two exclusive
Crop = Callable[[Box], np.ndarray]  # uint8 (h, w, 3) of a part of an image
Predict = Callable[[Sequence[np.ndarray]], Sequence[Detections]]


@dataclass(frozen=True)
class Tiling:
    """Tiles of `size` pixels a side that overlap by at least `overlap`.

    An object that is no larger than the overlap is whole in some tile.
    """

    size: int
    overlap: int

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.size:
            raise ValueError(f"an overlap of {self.overlap} pixels does not fit tiles of {self.size}")

    def needed(self, height: int, width: int) -> bool:
        """Whether an image is larger than one tile."""
        return max(height, width) > self.size

    def grid(self, height: int, width: int) -> list[Box]:
        """The tiles of an image, row by row; the last of a row or column is moved inward, so all are full."""
        return [
            (x, y, min(x + self.size, width), min(y + self.size, height))
            for y in self._starts(height)
            for x in self._starts(width)
        ]

    def _starts(self, extent: int) -> list[int]:
        last = max(extent - self.size, 0)
        return [*range(0, last, self.size - self.overlap), last]


def predict_tiles(
    predict: Predict | MaskRCNN, crop: Crop, tiles: Sequence[Box], batch_size: int = 8
) -> tuple[Detections, Tensor]:
    """What the network finds in every tile, each seen like an image of its own.

    Objects that lie in several tiles are found several times: `model.seams.join` makes one of them. Memory is
    that of a batch of tiles and of the detections.

    Args:
        predict: detections of a few images; a `MaskRCNN` itself will do.
        crop: reads a part of the image.
        batch_size: tiles cut at once.

    Returns:
        Detections with boxes in pixels of the image, and int64 (N,): the tile of each.
    """
    find = predict.predict if isinstance(predict, MaskRCNN) else predict
    found = list(_found(find, crop, tiles, batch_size))
    boxes = torch.cat([d.boxes + torch.tensor([*tile[:2], *tile[:2]]) for d, tile in zip(found, tiles, strict=True)])
    scores, labels, masks = (torch.cat([getattr(d, k) for d in found]) for k in ("scores", "labels", "masks"))
    tile_of = torch.repeat_interleave(torch.arange(len(found)), torch.tensor([len(d) for d in found]))
    return Detections(boxes, scores, labels, masks), tile_of


def _found(predict: Predict, crop: Crop, tiles: Sequence[Box], batch_size: int) -> Iterator[Detections]:
    for start in range(0, len(tiles), batch_size):
        yield from predict([crop(tile) for tile in tiles[start : start + batch_size]])
