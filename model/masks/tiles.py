"""Runs the network on the tiles of a very large image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from model.detections import Detections
from model.masks.tile_grid import Box, Crop

Predict = Callable[[Sequence[np.ndarray]], Sequence[Detections]]


def predict_tiles(predict: Predict, crop: Crop, tiles: Sequence[Box], batch_size: int = 8) -> tuple[Detections, Tensor]:
    """Detects instances in every tile, as if each tile were an image.

    An object that lies in several tiles is detected several times; `merge_tiles` makes one instance of it.
    Memory holds one batch of tiles and all detections.

    Args:
        predict: detects instances in a few images, as `MaskRCNN.predict` does.
        crop: reads a part of the image.
        tiles: in pixels of the image.
        batch_size: tiles read at once.

    Returns:
        Detections with boxes in pixels of the image, and int64 (N,), the tile of each.
    """
    found = list(_detections_of_each_tile(predict, crop, tiles, batch_size))
    boxes = torch.cat([d.boxes + torch.tensor([*tile[:2], *tile[:2]]) for d, tile in zip(found, tiles, strict=True)])
    scores, labels, masks = (torch.cat([getattr(d, k) for d in found]) for k in ("scores", "labels", "masks"))
    tile_of = torch.repeat_interleave(torch.arange(len(found)), torch.tensor([len(d) for d in found]))
    return Detections(boxes, scores, labels, masks), tile_of


def _detections_of_each_tile(
    predict: Predict, crop: Crop, tiles: Sequence[Box], batch_size: int
) -> Iterator[Detections]:
    for start in range(0, len(tiles), batch_size):
        yield from predict([crop(tile) for tile in tiles[start : start + batch_size]])
