"""Fetches the original bytes of catalogued images.

Neighbours in a tar shard share a request. A .tgz shard or a Parquet row group is streamed once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from pipeline.storage.filesystem import Place
from pipeline.storage.image_readers import Images, IsolateImage, RangedReader, StreamedReader
from pipeline.storage.ranged_reads import current_versions
from pipeline.storage.retries import RETRY_SECONDS
from pipeline.storage.suffixes import ASSUMED_IMAGE_BYTES, STREAMED_KINDS

MAX_TABLE_IMAGES, MAX_TABLE_BYTES = 64, 32 << 20  # of one table, by the lengths in the catalog
FETCHED = pa.schema(
    [
        ("image_id", pa.int64()),
        ("uri", pa.string()),
        ("error", pa.string()),
        ("data", pa.large_binary()),
    ]
)


def fetch_images(
    rows: pa.Table,
    options: dict[str, Any],
    retry_seconds: float = RETRY_SECONDS,
    isolate: IsolateImage | None = None,
) -> Iterator[pa.Table]:
    """Fetches the bytes of catalog rows.

    How rows are divided into tables depends only on the rows, never on what a store answers. Ray may run a task again
    and then takes the first table of the second attempt for the first table of the first, and so on.

    Args:
        rows: catalog rows.
        options: fsspec storage options.
        retry_seconds: how long to retry, see `retries`.
        isolate: given after these rows have crashed a process (see `pipeline.stages.quarantine`). Then images are read
            one by one, and those of a streamed shard one table at a time.

    Yields:
        Tables with the schema `FETCHED`, with a row for each row of the catalog.

    Raises:
        InputError: a store did not answer for `retry_seconds`, or refuses the job itself.
    """
    for run in _runs(rows):
        streamed = run["kind"][0].as_py() in STREAMED_KINDS
        reader = StreamedReader(run, options, retry_seconds) if streamed else RangedReader(run, options, retry_seconds)
        for start, stop in _table_bounds(run["length"].to_pylist()):
            part = run.slice(start, stop - start)
            images = reader.read(start, stop) if isolate is None else reader.read_isolated(start, stop, isolate)
            _discard_changed(part, images, options, retry_seconds)
            columns = [pa.array(images.errors, pa.string()), pa.array(images.data, pa.large_binary())]
            yield pa.table([part["image_id"], part["uri"], *columns], schema=FETCHED)


def _runs(rows: pa.Table) -> Iterator[pa.Table]:
    """Yields neighbouring rows that one reader reads: those of one streamed container, in its order, or of none."""
    kinds, containers = rows["kind"].to_pylist(), rows["container"].to_pylist()
    streams = [container if kind in STREAMED_KINDS else None for kind, container in zip(kinds, containers, strict=True)]
    start = 0
    for i in range(1, len(rows) + 1):
        if i == len(rows) or streams[i] != streams[start]:
            run = rows.slice(start, i - start)
            yield run if streams[start] is None else run.sort_by([("part", "ascending"), ("offset", "ascending")])
            start = i


def _table_bounds(lengths: list[int | None]) -> Iterator[tuple[int, int]]:
    """Yields (start, stop) of tables of bounded size."""
    start = total = 0
    for i, length in enumerate(lengths):
        size = ASSUMED_IMAGE_BYTES if length is None else length
        if i > start and (i - start >= MAX_TABLE_IMAGES or total + size > MAX_TABLE_BYTES):
            yield start, i
            start, total = i, 0
        total += size
    if start < len(lengths):
        yield start, len(lengths)


def _discard_changed(part: pa.Table, images: Images, options: dict[str, Any], retry_seconds: float) -> None:
    """Replaces images of shards that changed since they were catalogued by errors.

    At the catalogued offset there may now be another image. Versions are compared after reading, so that a change
    during the read is noticed too.
    """
    rows = part.select(["container", "kind", "version", "error"]).to_pylist()
    catalogued = {r["container"]: r["version"] for r in rows if r["kind"] != "image" and r["error"] is None}
    versions = current_versions([Place(url, options) for url in catalogued], retry_seconds)
    current = dict(zip(catalogued, versions, strict=True))
    for i, row in enumerate(rows):
        container = row["container"]
        if container not in catalogued or row["error"] is not None or current[container] == row["version"]:
            continue
        if not isinstance(current[container], Exception) or images.errors[i] is None:
            name = container.rsplit("/", 1)[-1]
            images.errors[i] = f"ChangedShard: {name} changed during the job; run again with --retry-errors"
        images.data[i] = None
