"""The catalog: one row for each image asked for, with the place of its bytes. The job's account book.

What a job owes is the catalog minus the results. Images that are new are added in new files, and a
shard whose version has not changed since is not opened again. Loose images are known by their address
alone. The driver keeps 8 bytes an image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.catalog import catalog_files
from pipeline.catalog.id_set import contains
from pipeline.catalog.inputs import Container
from pipeline.catalog.merge import Update
from pipeline.storage import Place
from pipeline.storage.suffixes import ASSUMED_IMAGE_BYTES, STREAMED_KINDS

SLICE_IMAGES, SLICE_BYTES = 64, 32 << 20  # of one read task
NONE = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Slice:
    """Some rows of one catalog file: the work of one read task.

    Attributes:
        path: the catalog file.
        rows: int32, row numbers in that file, ascending; neighbours in a shard are neighbours here.
        bytes: of these images as stored; assumed where nobody has asked.
    """

    path: str
    rows: np.ndarray
    bytes: int = 0


@dataclass
class Totals:
    """What a catalog asks for.

    Attributes:
        images: all of them.
        left: without a result.
        bytes: of those left whose size is known, as stored.
        unsized: of those left, images whose size is not known.
        kinds: images by kind of container.
    """

    images: int = 0
    left: int = 0
    bytes: int = 0
    unsized: int = 0
    kinds: Counter[str] = field(default_factory=Counter)


def update(
    output: Place,
    found: Iterable[list[Container]],
    done: np.ndarray,
    *,
    pattern: str | None = None,
    column: str | None = None,
    options: dict[str, Any] | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Adds the images of new and changed containers to the catalog under `output`.

    An image that the catalog has already keeps its row unless its shard has changed; then the whole catalog
    is written anew, and old files go when all new ones are there. Images that are no more in a changed shard
    go, unless they have a result. A shard's rows are in one file, which is written whole or not at all. So a
    crash leaves no image out; rows that it leaves twice are found by the next update, which writes the
    catalog anew.

    Args:
        found: containers in batches; one that comes twice counts once.
        done: int64, sorted ids of images that have their row in the results.
        pattern: only members of shards whose file name matches this glob. Another one adds to what is there.
        column: of Parquet files, the column of images.
        options: storage options.
        report: called with (new containers read, new containers found so far).

    Returns:
        Images in the catalog now.

    Raises:
        InputError: a shard cannot be read, or was catalogued by another column.
    """
    folder = output.join("catalog")
    work = Update(catalog_files.load(folder), catalog_files.Writer(output), pattern, column, options or {}, report)
    try:
        for batch in found:
            work.take(batch)
        work.finish()
    finally:
        work.pool.shutdown(wait=False, cancel_futures=True)
    if work.changed or work.known.repeated or work.known.outdated or not contains(done, work.known.gone).all():
        work.rewrite(done)
    return sum(pq.read_metadata(p.path, filesystem=p.arrow()).num_rows for p in folder.list(".parquet"))


def slices(output: Place, done: np.ndarray, images: int = SLICE_IMAGES, size: int = SLICE_BYTES) -> list[Slice]:
    """The catalog minus what is done, cut into read tasks.

    What can only be read from end to end, a .tgz or a row group of a Parquet file, is in one slice, whatever
    its size.

    Args:
        done: int64, sorted ids of images that have their row in the results.
        images: most images in a slice.
        size: bytes after which a slice ends.
    """
    work = []
    for place in output.join("catalog").list(".parquet"):
        columns = ["image_id", "length", "kind", "container", "part"]
        table = pq.read_table(place.path, filesystem=place.arrow(), columns=columns)
        left = np.flatnonzero(~contains(done, table["image_id"].to_numpy())).astype(np.int32)
        if not len(left):
            continue
        table = table.take(pa.array(left))
        starts = np.flatnonzero(_begins(table))
        lengths = pc.fill_null(table["length"], ASSUMED_IMAGE_BYTES).to_numpy()
        counts, sizes = np.diff(np.append(starts, len(left))), np.add.reduceat(lengths, starts)
        begin = at = rows = total = 0
        for count, length in zip(counts.tolist(), sizes.tolist(), strict=True):
            if rows and (rows + count > images or total + length > size):
                work.append(Slice(place.path, left[begin:at], total))
                begin, rows, total = at, 0, 0
            at, rows, total = at + count, rows + count, total + length
        work.append(Slice(place.path, left[begin:], total))
    return work


def limited(work: list[Slice], limit: int | None) -> list[Slice]:
    """The first `limit` images of the work; all of it without a limit."""
    if limit is None:
        return work
    chosen = []
    for s in work:
        if limit > 0:
            rows = s.rows[:limit]
            chosen.append(replace(s, rows=rows, bytes=s.bytes * len(rows) // len(s.rows)))
        limit -= len(s.rows)
    return chosen


def totals(output: Place, done: np.ndarray) -> Totals:
    """What the catalog asks for and what of it is left; from three of its columns.

    Args:
        done: int64, sorted ids of images that have their row in the results.
    """
    sums = Totals()
    for place in output.join("catalog").list(".parquet"):
        table = pq.read_table(place.path, filesystem=place.arrow(), columns=["image_id", "kind", "length"])
        left = table.filter(pa.array(~contains(done, table["image_id"].to_numpy())))
        sums.images += len(table)
        sums.left += len(left)
        sums.bytes += pc.sum(left["length"]).as_py() or 0
        sums.unsized += left["length"].null_count
        for pair in pc.value_counts(table["kind"]).to_pylist():
            sums.kinds[pair["values"]] += pair["counts"]
    return sums


def _begins(table: pa.Table) -> np.ndarray:
    """bool: at which rows a slice may begin."""
    streamed = pc.is_in(table["kind"], value_set=pa.array(STREAMED_KINDS)).to_numpy()
    container = table["container"].combine_chunks().dictionary_encode().indices.to_numpy()
    part = pc.fill_null(table["part"], -1).to_numpy()
    begins = np.ones(len(table), bool)
    begins[1:] = ~streamed[1:] | (container[1:] != container[:-1]) | (part[1:] != part[:-1])
    return begins
