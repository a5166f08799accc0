"""The stage that fetches: catalog rows in, their bytes out; see `pipeline.storage.original_bytes`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.cluster.progress import Progress
from pipeline.stages.quarantine import Quarantine
from pipeline.storage.original_bytes import fetch_images


class Fetch:
    """A batch of catalog rows in, the same rows with their bytes out, in tables of bounded size.

    An object that is gone or forbidden is an error of its images. Credentials that are no longer good, or
    a store that does not answer, are not: the one stops the job, the other is asked again with growing
    pauses and stops it after `RETRY_SECONDS` seconds. Either way it can be continued with nothing lost.
    """

    def __init__(self, options: dict[str, Any], progress: Progress, quarantine: Quarantine) -> None:
        self.options, self.progress, self.quarantine = options, progress, quarantine

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        self.progress.begun(len(batch))
        with self.quarantine.batch("fetch", batch["image_id"].to_pylist()) as suspected:
            tables = fetch_images(batch, self.options, isolate=suspected)
            while True:
                with self.progress.stage("fetch") as passed:
                    table = next(tables, None)
                    if table is not None:
                        size = pc.sum(pc.binary_length(table["data"])).as_py() or 0
                        passed["images"], passed["bytes"] = len(table), size
                if table is None:
                    return
                yield table
