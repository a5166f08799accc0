"""The segment stage: pixels in, boxes and 28x28 masks out. Its actor holds the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import ray
import torch

from model import Detections, load_model
from model.inference.memory import keep_freed_memory
from model.masks.tiles import predict_tiles
from pipeline.images import ImageError, cropper, open_image
from pipeline.images.device_jpeg import decode_jpegs
from pipeline.stages.base import Stage, StageOutput
from pipeline.stages.context import JobContext
from pipeline.stages.predictor import Pixels, Predictor
from pipeline.stages.rows import DecodedImage, SegmentedImage
from pipeline.storage.image_readers import IsolateImage


class Segment(Stage):
    """An actor of the pool. Rows with an error pass through.

    It takes a window of several batches, so that it finds enough images of each shape to fill its batches.

    Args:
        device: see `model.load_model`.
        threads: number of PyTorch threads.
        batch_size: the most images in a forward pass.
    """

    name = "segment"

    def __init__(self, context: JobContext, device: str, threads: int, batch_size: int) -> None:
        super().__init__(context)
        keep_freed_memory()
        torch.set_num_threads(threads)
        settings = context.network
        self.network = load_model(
            ray.get(settings.checkpoint),
            precision=settings.precision,
            device=device,
            compiled=settings.compiled,
            **settings.overrides,
        )
        self.predictor = Predictor(self.network, batch_size, context.progress)

    def process(self, batch: pa.Table, isolate: IsolateImage | None) -> Iterator[StageOutput]:
        """Yields rows of `SegmentedImage`."""
        rows = list(DecodedImage.from_table(batch))
        found = self._segment_isolated(rows, isolate) if isolate else self._segment_rows(rows)
        segmented = [found.get(row.image_id) or _to_row(row, row.error) for row in rows]
        instances = sum(len(row.scores) for row in segmented if row.scores is not None)
        self.context.progress.segmented([row.error for row in segmented], instances)
        yield StageOutput(SegmentedImage.to_table(segmented), len(found))

    def _segment_rows(self, rows: Sequence[DecodedImage]) -> dict[int, SegmentedImage]:
        """Segments the rows that hold an image; results by image id."""
        # The decode stage leaves a file encoded only for tiles or for the GPU's JPEG decoder.
        encoded = [row for row in rows if row.encoded is not None]
        segmented = [self._segment_tiled(row) for row in encoded if self.context.needs_tiles(*row.size)]
        images: list[tuple[DecodedImage, Pixels]] = [(row, row.pixels) for row in rows if row.pixels is not None]
        for row, decoded in self._decode_jpegs([row for row in encoded if not self.context.needs_tiles(*row.size)]):
            if isinstance(decoded, str):
                segmented.append(_to_row(row, decoded))
            else:
                images.append((row, decoded))
        found = self.predictor.predict([pixels for _, pixels in images], [row.size for row, _ in images])
        segmented += [_to_row(row, result) for (row, _), result in zip(images, found, strict=True)]
        return {row.image_id: row for row in segmented}

    def _segment_isolated(self, rows: Sequence[DecodedImage], isolate: IsolateImage) -> dict[int, SegmentedImage]:
        """The same for a window that has crashed an actor, see `pipeline.stages.quarantine`."""
        results: dict[int, SegmentedImage] = {}
        for row in rows:
            if row.pixels is not None or row.encoded is not None:
                with isolate(row.image_id) as error:
                    results |= self._segment_rows([row]) if error is None else {row.image_id: _to_row(row, error)}
        return results

    def _decode_jpegs(self, rows: Sequence[DecodedImage]) -> Iterator[tuple[DecodedImage, torch.Tensor | str]]:
        """Decodes JPEG files on the actor's device; pixels or an error for each row."""
        files = [row.encoded for row in rows if row.encoded is not None]
        pixels = decode_jpegs(files, [row.size for row in rows], self.network.preset, self.network.device)
        return zip(rows, pixels, strict=True)

    def _segment_tiled(self, row: DecodedImage) -> SegmentedImage:
        """Segments an image tile by tile."""
        tiling, file = self.context.tiling, row.encoded
        assert tiling is not None
        assert file is not None
        try:
            crop = cropper(open_image(file, None))
            found, tile_of = predict_tiles(
                self._predict_or_raise, crop, tiling.grid(*row.size), self.predictor.batch_size
            )
        except (ImageError, TileError) as error:
            return _to_row(row, str(error))
        except MemoryError:
            return _to_row(row, f"SegmentError: out of memory while decoding {row.width}x{row.height} pixels")
        return replace(_to_row(row, found), tiles=tile_of)

    def _predict_or_raise(self, tiles: Sequence[np.ndarray]) -> list[Detections]:
        found = self.predictor.predict(tiles, [tile.shape[:2] for tile in tiles])
        if errors := [f for f in found if isinstance(f, str)]:
            raise TileError(errors[0])
        return [f for f in found if isinstance(f, Detections)]


class TileError(Exception):
    """A tile that could not be segmented. The message is the error of its image's row."""


def _to_row(row: DecodedImage, result: Detections | str | None) -> SegmentedImage:
    """The row of an image with its detections, or with its error."""
    if not isinstance(result, Detections):
        return SegmentedImage(row.image_id, row.uri, result, row.width, row.height)
    arrays = (result.boxes, result.scores, result.labels, result.masks)
    return SegmentedImage(row.image_id, row.uri, None, row.width, row.height, *arrays)
