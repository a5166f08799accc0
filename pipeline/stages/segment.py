"""Pixels to boxes and 28x28 masks: the actor that holds the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from model import Detections, load_model
from model.batching import batches_by_shape
from model.inference.memory import keep_freed_memory, release_cached
from model.layers.transform import padded_size, resized_size
from model.masks.tile_grid import Tiling
from model.masks.tiles import predict_tiles
from pipeline.cluster.progress import Progress
from pipeline.images import ImageError, cropper, open_image
from pipeline.images.device_jpeg import decode_jpegs
from pipeline.stages.quarantine import Quarantine
from pipeline.storage.original_bytes import IsolateImage

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
        ("tiles", pa.large_binary()),  # int64 (N,), the tile of each; null of an image that was not cut
    ]
)
STRIP = (8, 1000, 3)  # small for any network: its longer side is capped before its shorter one is large

Pixels = np.ndarray | torch.Tensor  # uint8 (H, W, 3) RGB


@dataclass(frozen=True)
class Network:
    """What an actor loads: the checkpoint as the driver read it, so that all actors have the same one and a
    path need exist on the driver's machine alone. `overrides` are fields of its preset.
    """

    checkpoint: ray.ObjectRef  # of a model.Checkpoint
    precision: str = "auto"
    compiled: bool = False
    tiling: Tiling | None = None
    nvjpeg: bool = False
    overrides: dict[str, Any] = field(default_factory=dict)


class Segment:
    """An actor of the pool: decoded rows in, detections out. Rows with an error pass through.

    It takes a window of several batches, so that there are enough images of each shape to fill them.
    """

    def __init__(
        self, network: Network, threads: int, device: str, batch_size: int, progress: Progress, quarantine: Quarantine
    ) -> None:
        keep_freed_memory()
        torch.set_num_threads(threads)
        self.network = load_model(
            ray.get(network.checkpoint),
            precision=network.precision,
            device=device,
            compiled=network.compiled,
            **network.overrides,
        )
        self.tiling, self.batch_size = network.tiling, batch_size
        self.progress, self.quarantine = progress, quarantine

    def __call__(self, window: pa.Table) -> pa.Table:
        rows = window.drop_columns("pixels").to_pylist()
        for row, pixels in zip(rows, in_place(window["pixels"]), strict=True):
            row["pixels"] = pixels
        ids = window["image_id"].to_pylist()
        with self.quarantine.batch("segment", ids) as suspected, self.progress.stage("segment") as passed:
            results = self._one_by_one(rows, suspected) if suspected else self._together(rows)
            passed["images"] = len(results)
        done = [_row(row, results.get(row["image_id"])) for row in rows]
        instances = sum(len(d["scores"]) // 4 for d in done if d.get("scores") is not None)
        self.progress.segmented([row["error"] for row in done], instances)
        return pa.Table.from_pylist(done, schema=SEGMENTED)

    def _together(self, rows: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
        """The results of the rows that hold an image, by id."""
        sizes = {r["image_id"]: (r["height"], r["width"]) for r in rows}
        images: dict[int, Pixels] = {r["image_id"]: _pixels(r) for r in rows if r["pixels"] is not None}
        results: dict[int, dict[str, Any]] = {}
        stored = [row for row in rows if row["encoded"] is not None]
        large = [row for row in stored if self.tiling and self.tiling.needed(row["height"], row["width"])]
        jpegs = [row for row in stored if row not in large]
        files, of = [r["encoded"] for r in jpegs], [sizes[r["image_id"]] for r in jpegs]
        pixels = decode_jpegs(files, of, self.network.preset, self.network.device)
        for row, image in zip(jpegs, pixels, strict=True):
            if isinstance(image, str):
                results[row["image_id"]] = {"error": image}
            else:
                images[row["image_id"]] = image
        found = self._predict(list(images.values()), [sizes[i] for i in images])
        results |= {i: _packed(result) for i, result in zip(images, found, strict=True)}
        return results | {row["image_id"]: self._tiled(row) for row in large}

    def _one_by_one(self, rows: list[dict[str, Any]], alone: IsolateImage) -> dict[int, dict[str, Any]]:
        """The same for a window that has cost a process: see `pipeline.stages.quarantine`."""
        results: dict[int, dict[str, Any]] = {}
        for row in rows:
            if row["pixels"] is not None or row["encoded"] is not None:
                with alone(row["image_id"]) as error:
                    results |= self._together([row]) if error is None else {row["image_id"]: {"error": error}}
        return results

    def _tiled(self, row: dict[str, Any]) -> dict[str, Any]:
        """The results of an image that is cut into tiles, or its error."""
        assert self.tiling is not None
        try:
            crop = cropper(open_image(row["encoded"], None))
            tiles = self.tiling.grid(row["height"], row["width"])
            found, tile_of = predict_tiles(self._predict_tiles, crop, tiles, self.batch_size)
        except (ImageError, TileError) as error:
            return {"error": str(error)}
        except MemoryError:
            return {"error": f"SegmentError: no memory to decode {row['width']}x{row['height']} pixels"}
        return _packed(found) | {"tiles": tile_of.numpy().tobytes()}

    def _predict_tiles(self, images: Sequence[np.ndarray]) -> list[Detections]:
        found = self._predict(images, [i.shape[:2] for i in images])
        if errors := [f for f in found if isinstance(f, str)]:
            raise TileError(errors[0])
        return [f for f in found if isinstance(f, Detections)]

    def _predict(
        self, images: Sequence[np.ndarray | torch.Tensor], sizes: Sequence[tuple[int, int]]
    ) -> list[Detections | str]:
        """Detections of each image, or the error that befell it.

        Where a window fails (out of memory, most likely), each of its batches is tried, then its halves, down to one
        image.
        """
        if not images:
            return []
        try:
            found = self.network.predict(images, sizes, self.batch_size)
        except (RuntimeError, MemoryError) as error:
            failed = f"SegmentError: {' '.join(str(error).split())[:200] or 'out of memory'}"
        else:
            self._count_batches(sizes)
            return list(found)
        # Out of the handler, since the exception's traceback keeps what the failed pass had allocated.
        release_cached(self.network.device)
        if len(images) == 1:
            self.network.predict([np.zeros(STRIP, np.uint8)])  # raises where the device is at fault
            return [failed]
        results: dict[int, Detections | str] = {}
        for part in self._parts(sizes):
            again = self._predict([images[i] for i in part], [sizes[i] for i in part])
            results |= zip(part, again, strict=True)
        return [results[i] for i in range(len(images))]

    def _parts(self, sizes: Sequence[tuple[int, int]]) -> list[list[int]]:
        """Of images that cannot be taken together: their batches, or the halves of one."""
        preset = self.network.preset
        parts = batches_by_shape([resized_size(*size, preset) for size in sizes], preset, self.batch_size)
        half = len(sizes) // 2
        return parts if len(parts) > 1 else [parts[0][:half], parts[0][half:]]

    def _count_batches(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Reports how full the forward passes were, and how much of their input was padding."""
        preset = self.network.preset
        resized = [resized_size(*size, preset) for size in sizes]
        padded = [padded_size(size, preset) for size in resized]
        passes = len(batches_by_shape(resized, preset, self.batch_size))
        pixels, inputs = (sum(h * w for h, w in shapes) for shapes in (resized, padded))
        self.progress.batches(len(sizes), passes * self.batch_size, pixels, inputs)


class TileError(Exception):
    """A tile that could not be segmented; the message is the error of its image's row."""


def in_place(values: pa.ChunkedArray) -> Iterator[pa.Buffer | None]:
    """Where each of some large binary values lies: the pixels of an image take milliseconds to copy."""
    assert values.type == pa.large_binary()
    for chunk in filter(len, values.chunks):
        _, offsets, data = chunk.buffers()
        stops = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
        for start, stop, there in zip(stops, stops[1:], chunk.is_valid(), strict=False):
            yield data.slice(start, stop - start) if there.as_py() else None


def _pixels(row: dict[str, Any]) -> torch.Tensor:
    held = pa.UInt8Array.from_buffers(pa.uint8(), row["pixels"].size, [None, row["pixels"]])
    return torch.from_dlpack(held).view(row["rows"], row["columns"], 3)


def _packed(result: Detections | str) -> dict[str, Any]:
    if isinstance(result, str):
        return {"error": result}
    arrays = {"boxes": result.boxes, "scores": result.scores, "labels": result.labels, "masks": result.masks}
    return {k: v.numpy().tobytes() for k, v in arrays.items()}


def _row(row: dict[str, Any], result: dict[str, Any] | None) -> dict[str, Any]:
    return {k: row[k] for k in ("image_id", "uri", "error", "width", "height")} | (result or {})
