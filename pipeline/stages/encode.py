"""Detections to rows of the results table: COCO boxes, RLE masks, category ids and names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import torch

from model import RleError, rle
from model.masks.tile_grid import Tiling
from model.masks.tile_merging import Instances, merge_tiles
from model.preset import Preset
from pipeline.cluster.progress import Progress
from pipeline.schema import RESULTS, with_description
from pipeline.stages.quarantine import Quarantine, trusted

LISTS = ("category_id", "category", "score", "bbox", "area", "rle")


class Encode:
    """A batch of segmented rows in, finished rows out, in the schema of `pipeline.schema.RESULTS`."""

    def __init__(
        self,
        preset: Preset,
        tiling: Tiling | None,
        description: dict[str, Any],
        progress: Progress,
        quarantine: Quarantine,
    ) -> None:
        self.preset, self.tiling, self.progress, self.quarantine = preset, tiling, progress, quarantine
        self.schema = with_description(RESULTS, description)

    def __call__(self, batch: pa.Table) -> pa.Table:
        torch.set_num_threads(1)
        rows = []
        ids = batch["image_id"].to_pylist()
        with self.quarantine.batch("encode", ids) as suspected, self.progress.stage("encode") as passed:
            for row in batch.to_pylist():
                with (suspected or trusted)(row["image_id"]) as error:
                    rows.append(self._encode(row if error is None else row | {"error": error}))
            passed["images"] = len(rows)
        return pa.Table.from_pylist(rows, schema=self.schema)

    def _encode(self, row: dict[str, Any]) -> dict[str, Any]:
        done = {k: row[k] for k in ("image_id", "uri", "width", "height", "error")}
        if row["error"] is not None:
            return done | dict.fromkeys(LISTS)
        try:
            found = self._instances(row)
        except RleError as error:
            return done | dict.fromkeys(LISTS) | {"error": f"SegmentError: {error}"}
        labels = (found.labels - 1).tolist()
        return done | {
            "category_id": [self.preset.category_ids[i] for i in labels],
            "category": [self.preset.categories[i] for i in labels],
            "score": found.scores.tolist(),
            "bbox": np.concatenate([found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]], axis=1).tolist(),
            "area": found.areas,
            "rle": found.counts,
        }

    def _instances(self, row: dict[str, Any]) -> Instances:
        """The instances of an image with their RLE; those that several tiles saw are made one."""
        height, width, side = row["height"], row["width"], 2 * self.preset.mask_roi_size
        boxes = np.frombuffer(bytearray(row["boxes"]), np.float32).reshape(-1, 4)
        masks = np.frombuffer(bytearray(row["masks"]), np.float32).reshape(len(boxes), side, side)
        scores, labels = np.frombuffer(row["scores"], np.float32), np.frombuffer(row["labels"], np.int64)
        counts, areas = rle.encode_with_area(masks, boxes, height, width, paste=self.preset.mask_paste)
        found = Instances(boxes, scores, labels, counts, areas)
        if row["tiles"] is None or self.tiling is None:
            return found
        tile_of = np.frombuffer(row["tiles"], np.int64)
        return merge_tiles(found, tile_of, self.tiling.grid(height, width), height, width, self.preset.nms)
