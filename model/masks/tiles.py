"""What the network finds in the tiles of a very large image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from model.detections import Detections
from model.masks.tile_grid import Box, Crop

Predict = Callable[[Sequence[np.ndarray]], Sequence[Detections]]


def predict_tiles(predict: Predict, crop: Crop, tiles: Sequence[Box], batch_size: int = 8) -> tuple[Detections, Tensor]:
    """What the network finds in every tile, each seen like an image of its own.

    Objects that lie in several tiles are found several times: `tile_merging.join` makes one of them. Memory is
    that of a batch of tiles and of the detections.

    Args:
        predict: detections of a few images, as `MaskRCNN.predict` gives them.
        crop: reads a part of the image.
        batch_size: tiles cut at once.

    Returns:
        Detections with boxes in pixels of the image, and int64 (N,): the tile of each.
    """
    found = list(_found(predict, crop, tiles, batch_size))
    boxes = torch.cat([d.boxes + torch.tensor([*tile[:2], *tile[:2]]) for d, tile in zip(found, tiles, strict=True)])
    scores, labels, masks = (torch.cat([getattr(d, k) for d in found]) for k in ("scores", "labels", "masks"))
    tile_of = torch.repeat_interleave(torch.arange(len(found)), torch.tensor([len(d) for d in found]))
    return Detections(boxes, scores, labels, masks), tile_of


def _found(predict: Predict, crop: Crop, tiles: Sequence[Box], batch_size: int) -> Iterator[Detections]:
    for start in range(0, len(tiles), batch_size):
        yield from predict([crop(tile) for tile in tiles[start : start + batch_size]])
