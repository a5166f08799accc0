"""Catalog rows into Ray Data: one read task a slice, holding row numbers, not rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from pipeline.catalog.slices import Slice
from pipeline.schema import CATALOG
from pipeline.storage import Place, explain
from pipeline.storage.retries import RETRY_SECONDS, catch_error, with_retries


class CatalogSource(Datasource):
    """Reads the given slices of the catalog under `output`.

    The driver keeps four bytes an image, and of each slice the pickled task: under 600 bytes where its rows follow
    one another, else four bytes a row more. A task reads only addresses; the image bytes are fetched in the stage
    after it, which Ray fuses into the same task.
    """

    def __init__(self, output: Place, slices: Sequence[Slice]) -> None:
        super().__init__()
        self._output, self._slices = output, slices

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of the addresses, roughly."""
        return sum(len(s.rows) for s in self._slices) * 200

    def get_read_tasks(self, parallelism: int, *args: object, **kwargs: object) -> list[ReadTask]:
        """One task a slice, whatever parallelism Ray suggests: the slices were sized by bytes."""
        return [
            ReadTask(
                partial(_read, self._output, s.path, _packed(s.rows)),
                BlockMetadata(num_rows=len(s.rows), size_bytes=len(s.rows) * 200, input_files=None, exec_stats=None),
            )
            for s in self._slices
        ]


def _packed(rows: np.ndarray) -> range | bytes:
    """Row numbers in few bytes."""
    first, last = int(rows[0]), int(rows[-1])
    return range(first, last + 1) if last - first + 1 == len(rows) else rows.tobytes()


def _read(output: Place, path: str, packed: range | bytes) -> Iterable[pa.Table]:
    rows = np.frombuffer(packed, np.int32) if isinstance(packed, bytes) else np.array(packed, np.int32)
    yield rows_of(output, Slice(path, rows))


def rows_of(output: Place, wanted: Slice) -> pa.Table:
    """The rows of a slice, in the schema `CATALOG`. Waits for a store that is away, as fetching images does.

    Raises:
        InputError: the store did not answer for `RETRY_SECONDS` seconds, or the file is gone.
    """
    (rows,) = with_retries(output.url, lambda _: [catch_error(lambda: _rows(output, wanted))], [wanted], RETRY_SECONDS)
    if isinstance(rows, Exception):
        raise explain(output.url, rows)
    return rows


def _rows(output: Place, wanted: Slice) -> pa.Table:
    file = pq.ParquetFile(wanted.path, filesystem=output.arrow())
    groups: list[int] = []
    rows: list[np.ndarray] = []
    start = 0
    for group in range(file.num_row_groups):  # only the row groups that hold wanted rows
        stop = start + file.metadata.row_group(group).num_rows
        inside = wanted.rows[(wanted.rows >= start) & (wanted.rows < stop)]
        if len(inside):
            rows.append(inside - start + sum(file.metadata.row_group(g).num_rows for g in groups))
            groups.append(group)
        start = stop
    return file.read_row_groups(groups).take(pa.array(np.concatenate(rows))).combine_chunks().cast(CATALOG)
