"""The fetch stage: catalog rows in, image files out."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.stages.base import Stage, StageOutput
from pipeline.storage.image_readers import IsolateImage
from pipeline.storage.original_bytes import fetch_images


class Fetch(Stage):
    """Reads the files of a batch of catalog rows, in tables of bounded size.

    An object that is missing or forbidden becomes the error of its images. Expired credentials stop the job. A store
    that does not answer is retried with growing pauses and stops the job after `RETRY_SECONDS` seconds. In both cases
    the job can be continued and loses nothing.
    """

    name = "fetch"

    def process(self, batch: pa.Table, isolate: IsolateImage | None) -> Iterator[StageOutput]:
        """Yields rows of `FetchedImage`."""
        self.context.progress.started(len(batch))
        for table in fetch_images(batch, self.context.storage_options, isolate=isolate):
            yield StageOutput(table, len(table), bytes_read=pc.sum(pc.binary_length(table["data"])).as_py() or 0)
