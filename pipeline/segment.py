"""Pixels to boxes and 28x28 masks: the actor that holds the network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from model import Detections, load_model
from pipeline.progress import Progress

SEGMENTED = pa.schema(
    [
        ("image_id", pa.int64()),
        ("uri", pa.string()),
        ("error", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("boxes", pa.large_binary()),  # float32 (N, 4) xyxy, pixels of the stored image
        ("scores", pa.large_binary()),  # float32 (N,)
        ("labels", pa.large_binary()),  # int64 (N,), the network's outputs
        ("masks", pa.large_binary()),  # float32 (N, 28, 28)
    ]
)


@dataclass(frozen=True)
class Network:
    """What an actor loads: the checkpoint as the driver read it, so that all actors have the same one and a
    path need exist on the driver's machine alone. `overrides` are fields of its preset.
    """

    checkpoint: ray.ObjectRef  # of a model.Checkpoint
    precision: str = "auto"
    overrides: dict[str, Any] = field(default_factory=dict)


class Segment:
    """An actor of the pool: decoded rows in, detections out. Rows with an error pass through."""

    def __init__(self, network: Network, threads: int, progress: Progress) -> None:
        torch.set_num_threads(threads)
        self.network = load_model(ray.get(network.checkpoint), precision=network.precision, **network.overrides)
        self.progress = progress

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = batch.to_pylist()
        good = [row for row in rows if row["error"] is None]
        with self.progress.stage("segment") as passed:
            found = self._predict(good)
            passed["images"] = len(good)
        results = {row["image_id"]: result for row, result in zip(good, found, strict=True)}
        done = [_row(row, results.get(row["image_id"])) for row in rows]
        self.progress.segmented([row["error"] for row in done], sum(len(d) for d in found if isinstance(d, Detections)))
        return pa.Table.from_pylist(done, schema=SEGMENTED)

    def _predict(self, rows: list[dict[str, Any]]) -> list[Detections | str]:
        """Detections of each image, or the error that befell it.

        Where a batch fails (out of memory, most likely), its halves are tried, down to one image.
        """
        if not rows:
            return []
        try:
            images = [np.frombuffer(bytearray(r["pixels"]), np.uint8).reshape(r["rows"], r["columns"], 3) for r in rows]
            return list(self.network.predict(images, [(r["height"], r["width"]) for r in rows], len(rows)))
        except RuntimeError as error:
            if len(rows) == 1:
                self.network.predict([np.zeros((64, 64, 3), np.uint8)])  # raises where the device is at fault
                return [f"SegmentError: {' '.join(str(error).split())[:200]}"]
        half = len(rows) // 2
        return self._predict(rows[:half]) + self._predict(rows[half:])


def _row(row: dict[str, Any], result: Detections | str | None) -> dict[str, Any]:
    done = {k: row[k] for k in ("image_id", "uri", "error", "width", "height")}
    if not isinstance(result, Detections):
        return done | {"error": result or row["error"]}
    arrays = {"boxes": result.boxes, "scores": result.scores, "labels": result.labels, "masks": result.masks}
    return done | {k: v.numpy().tobytes() for k, v in arrays.items()}
