"""The encode stage: detections in, rows of the results table out (COCO boxes, RLE masks, categories)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from model import RleError, rle
from model.masks.tile_merging import Instances, merge_tiles
from pipeline.schema import RESULTS, with_description
from pipeline.stages.base import Stage, StageOutput, map_images
from pipeline.stages.rows import SegmentedImage
from pipeline.storage.image_readers import IsolateImage


class Encode(Stage):
    """Encodes a batch of segmented images in the schema `pipeline.schema.RESULTS`."""

    name = "encode"

    def process(self, batch: pa.Table, isolate: IsolateImage | None) -> Iterator[StageOutput]:
        """Yields the finished rows. A column that a row does not name is null."""
        torch.set_num_threads(1)  # many of these tasks run side by side
        rows = list(map_images(self._encode, SegmentedImage.from_table(batch), isolate))
        schema = with_description(RESULTS, self.context.description)
        yield StageOutput(pa.Table.from_pylist(rows, schema=schema), len(rows))

    def _encode(self, row: SegmentedImage) -> dict[str, Any]:
        image = {"image_id": row.image_id, "uri": row.uri, "width": row.width, "height": row.height}
        if row.error is not None:
            return image | {"error": row.error}
        try:
            found = self._instances(row)
        except RleError as error:
            return image | {"error": f"SegmentError: {error}"}
        classes = (found.labels - 1).tolist()
        return image | {
            "category_id": [self.context.preset.category_ids[c] for c in classes],
            "category": [self.context.preset.categories[c] for c in classes],
            "score": found.scores.tolist(),
            "bbox": np.concatenate([found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]], axis=1).tolist(),
            "area": found.areas,
            "rle": found.counts,
        }

    def _instances(self, row: SegmentedImage) -> Instances:
        """Encodes the masks of an image and merges instances that several tiles saw."""
        boxes, scores, labels, masks = row.arrays()
        height, width = row.size
        preset = self.context.preset
        counts, areas = rle.encode_with_area(masks, boxes, height, width, paste=preset.mask_paste)
        found = Instances(boxes, scores, labels, counts, areas)
        if row.tiles is None or self.context.tiling is None:
            return found
        tiles = self.context.tiling.grid(height, width)
        return merge_tiles(found, row.tiles.numpy(), tiles, height, width, preset.nms)
