"""Detections to rows of the results table: COCO boxes, RLE masks, category ids and names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import torch

from model import RleError, rle
from model.preset import Preset
from pipeline.progress import Progress
from pipeline.schema import RESULTS, described

LISTS = ("category_id", "category", "score", "bbox", "area", "rle")


class Encode:
    """A batch of segmented rows in, finished rows out, in the schema of `pipeline.schema.RESULTS`."""

    def __init__(self, preset: Preset, description: dict[str, Any], progress: Progress) -> None:
        self.preset, self.progress = preset, progress
        self.schema = described(RESULTS, description)

    def __call__(self, batch: pa.Table) -> pa.Table:
        torch.set_num_threads(1)
        with self.progress.stage("encode") as passed:
            rows = [self._encode(row) for row in batch.to_pylist()]
            passed["images"] = len(rows)
        return pa.Table.from_pylist(rows, schema=self.schema)

    def _encode(self, row: dict[str, Any]) -> dict[str, Any]:
        done = {k: row[k] for k in ("image_id", "uri", "width", "height", "error")}
        if row["error"] is not None:
            return done | dict.fromkeys(LISTS)
        boxes = np.frombuffer(bytearray(row["boxes"]), np.float32).reshape(-1, 4)
        masks = np.frombuffer(bytearray(row["masks"]), np.float32)
        masks = masks.reshape(len(boxes), *[2 * self.preset.mask_roi_size] * 2)
        labels = np.frombuffer(row["labels"], np.int64) - 1
        try:
            counts, areas = rle.encode_with_area(
                masks, boxes, row["height"], row["width"], paste=self.preset.mask_paste
            )
        except RleError as error:
            return done | dict.fromkeys(LISTS) | {"error": f"SegmentError: {error}"}
        return done | {
            "category_id": [self.preset.category_ids[i] for i in labels],
            "category": [self.preset.categories[i] for i in labels],
            "score": np.frombuffer(row["scores"], np.float32).tolist(),
            "bbox": np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist(),
            "area": areas,
            "rle": counts,
        }
