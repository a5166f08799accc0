"""The decode stage: image files in, pixels no larger than the network's input out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa
import torch

from model.layers.transform import shrink
from pipeline.images import ImageError, open_image, to_rgb
from pipeline.stages.base import Stage, StageOutput, map_images
from pipeline.stages.context import JobContext
from pipeline.stages.rows import DecodedImage, FetchedImage
from pipeline.storage import one_line
from pipeline.storage.image_readers import IsolateImage


class Decode(Stage):
    """Decodes a batch of image files and shrinks them, in blocks of bounded size.

    Two kinds of images pass as files, with only their header read. An image that needs tiles would be by far the
    largest block of the job once decoded, and the actor wants one tile at a time. A JPEG that the actor decodes on its
    GPU stays a JPEG.

    Args:
        block_bytes: bytes of pixels or files after which a block ends.
    """

    name = "decode"

    def __init__(self, context: JobContext, block_bytes: int) -> None:
        super().__init__(context)
        self.block_bytes = block_bytes

    def process(self, batch: pa.Table, isolate: IsolateImage | None) -> Iterator[StageOutput]:
        """Yields rows of `DecodedImage`."""
        torch.set_num_threads(1)  # many of these tasks run side by side
        rows: list[DecodedImage] = []
        size = 0
        for row in map_images(self._decode, FetchedImage.from_table(batch), isolate):
            rows.append(row)
            size += row.pixels.nbytes if row.pixels is not None else len(row.encoded or b"")
            if size >= self.block_bytes:
                yield StageOutput(DecodedImage.to_table(rows), len(rows))
                rows, size = [], 0
        if rows:
            yield StageOutput(DecodedImage.to_table(rows), len(rows))

    def _decode(self, row: FetchedImage) -> DecodedImage:
        decoded = DecodedImage(row.image_id, row.uri, row.error)
        if row.error is not None:
            return decoded
        assert row.data is not None
        try:
            image = open_image(row.data, self.context.pixel_limit)
            decoded = replace(decoded, width=image.width, height=image.height)
            on_gpu = self.context.nvjpeg and image.format == "JPEG" and image.mode in ("L", "RGB")
            if on_gpu or self.context.needs_tiles(image.height, image.width):
                return replace(decoded, encoded=row.data)
            return replace(decoded, pixels=shrink(torch.from_numpy(to_rgb(image)), self.context.preset))
        except ImageError as error:
            return replace(decoded, error=str(error))
        except (RuntimeError, MemoryError) as error:
            return replace(decoded, error=f"DecodeError: {one_line(error)}")
