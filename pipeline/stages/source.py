"""The source of the Ray plan: one read task for each slice of the catalog."""

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

ROW_BYTES = 200  # of a catalog row in memory, roughly


class CatalogSource(Datasource):
    """Reads slices of the catalog under `output`.

    A task reads addresses only. The next stage fetches the image bytes, and Ray fuses it into the same task.

    The driver keeps four bytes for each image, and the pickled task of each slice. A task takes under 600 bytes if the
    rows of its slice are consecutive, and four more bytes for each row if they are not.
    """

    def __init__(self, output: Place, slices: Sequence[Slice]) -> None:
        super().__init__()
        self._output, self._slices = output, slices

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of the addresses, roughly."""
        return sum(len(s.rows) for s in self._slices) * ROW_BYTES

    def get_read_tasks(self, parallelism: int, *args: object, **kwargs: object) -> list[ReadTask]:
        """One task for each slice. Slices have been sized by bytes, so the parallelism that Ray suggests is ignored."""
        return [
            ReadTask(
                partial(_read, self._output, s.path, _compact(s.rows)),
                BlockMetadata(
                    num_rows=len(s.rows), size_bytes=len(s.rows) * ROW_BYTES, input_files=None, exec_stats=None
                ),
            )
            for s in self._slices
        ]


def _compact(rows: np.ndarray) -> range | bytes:
    """Row numbers in few bytes."""
    first, last = int(rows[0]), int(rows[-1])
    return range(first, last + 1) if last - first + 1 == len(rows) else rows.tobytes()


def _read(output: Place, path: str, compact: range | bytes) -> Iterable[pa.Table]:
    rows = np.frombuffer(compact, np.int32) if isinstance(compact, bytes) else np.array(compact, np.int32)
    yield read_slice(output, Slice(path, rows))


def read_slice(output: Place, wanted: Slice) -> pa.Table:
    """Reads the rows of a slice, in the schema `CATALOG`. Retries while the store does not answer.

    Raises:
        InputError: the store did not answer for `RETRY_SECONDS` seconds, or the file is missing.
    """
    (rows,) = with_retries(
        output.url, lambda _: [catch_error(lambda: _read_rows(output, wanted))], [wanted], RETRY_SECONDS
    )
    if isinstance(rows, Exception):
        raise explain(output.url, rows)
    return rows


def _read_rows(output: Place, wanted: Slice) -> pa.Table:
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
