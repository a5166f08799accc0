"""Merges new and changed containers into a catalog."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.catalog.catalog_files import REMOVED, CatalogState, CatalogWriter, read_tables, shard_key
from pipeline.catalog.id_set import IdSet, contains
from pipeline.catalog.inputs import Container
from pipeline.catalog.shard_index import IndexOptions, index_images, index_shard
from pipeline.errors import InputError
from pipeline.schema import image_id

READERS = 16  # threads that read shards; they mostly wait for the store


class CatalogMerger:
    """Merges containers into a catalog; a context manager that owns a thread pool.

    `add` takes containers and `flush` writes their new rows to new files. If `needs_rewrite`, `rewrite` then replaces
    the old files.

    Args:
        state: what the catalog holds before the merge.
        writer: writes new catalog files.
        options: which images of a shard to catalog.
        report: called with (new containers read, new containers found so far).
    """

    def __init__(
        self, state: CatalogState, writer: CatalogWriter, options: IndexOptions, report: Callable[[int, int], None]
    ) -> None:
        self._state, self._writer, self._options, self._report = state, writer, options, report
        self._ids = IdSet(state.ids)
        self._ids_in_changed_shards = IdSet()
        self._changed_shards: dict[str, str] = {}  # new version by URL
        self._seen_keys: set[int] = set()
        self._pool = ThreadPoolExecutor(READERS)
        self._pending: deque[tuple[Container, int, Future[pa.Table]]] = deque()
        self._read = self._found = 0

    def __enter__(self) -> CatalogMerger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def add(self, batch: list[Container]) -> None:
        """Adds the images of containers that are new or have changed. Shards are read in the background.

        Raises:
            InputError: a shard cannot be read, or was catalogued with another column.
        """
        images = [c for c in batch if c.kind == "image"]
        if images:
            new = self._ids.add(np.fromiter((image_id(c.url) for c in images), np.int64, len(images)))
            self._writer.add(index_images(images[i] for i in np.flatnonzero(new)))
            self._count(found=int(new.sum()), read=int(new.sum()))
        for shard in batch:
            if shard.kind != "image":
                self._submit(shard)

    def flush(self) -> None:
        """Waits for the shards that are still being read, and writes all new rows.

        Raises:
            InputError: a shard cannot be read, or was catalogued with another column.
        """
        while self._pending:
            self._collect()
        self._writer.flush()

    def needs_rewrite(self, done: np.ndarray) -> bool:
        """Tells whether old files hold rows that must be changed or dropped.

        Args:
            done: int64, sorted: ids of the images that have their row in the results.
        """
        state = self._state
        forgotten = not contains(done, state.removed_ids).all()  # kept for a result that has been deleted since
        return bool(self._changed_shards) or state.has_duplicates or state.is_outdated or forgotten

    def rewrite(self, done: np.ndarray) -> None:
        """Writes the rows of the old files to new files, then deletes the old files.

        Each image gets one row. Rows of images that a changed shard no longer holds are dropped. If such an image has
        a result, its row stays and says so in `error`.

        Args:
            done: int64, sorted: ids of the images that have their row in the results.
        """
        urls = pa.array(self._changed_shards, pa.string())
        versions = pa.array(self._changed_shards.values(), pa.string())
        written = IdSet()
        for table, keys in read_tables(self._state.files):
            ids = table["image_id"].to_numpy()
            changed = pc.index_in(table["container"], value_set=urls)  # null: the container has not changed
            removed = pc.fill_null(pc.equal(table["error"], REMOVED), False).to_numpy()
            stale = pc.is_valid(changed).to_numpy() | removed
            keep = (~stale | contains(done, ids)) & ~self._ids_in_changed_shards.contains(ids)
            keep[keep] = written.add(ids[keep])
            table, changed = table.filter(pa.array(keep)), changed.filter(pa.array(keep))
            version = pc.coalesce(versions.take(changed.combine_chunks()), table["version"])
            error = pc.if_else(pc.is_valid(changed), REMOVED, table["error"])
            for name, values in (("version", version), ("error", error)):
                i = table.schema.get_field_index(name)
                table = table.set_column(i, table.schema.field(i), values)
            self._writer.add(table, keys)
        self._writer.flush()
        for file in self._state.files:
            file.fs.rm_file(file.path)

    def _submit(self, shard: Container) -> None:
        """Has a shard read in the background, unless the catalog holds this version of it."""
        column = self._options.column if shard.kind == "parquet" else None
        key = shard_key(shard.url, shard.version, self._options.pattern, column)
        versions = {version for version, _ in self._state.shards.get(shard.url, ())}
        if key in self._seen_keys or (key in self._state.shard_keys and versions <= {shard.version}):
            return
        self._seen_keys.add(key)
        if not versions <= {shard.version}:
            self._changed_shards[shard.url] = shard.version
        self._pending.append((shard, key, self._pool.submit(index_shard, shard, self._options)))
        self._count(found=1)
        while len(self._pending) > 2 * READERS:
            self._collect()

    def _collect(self) -> None:
        """Waits for the oldest shard and adds its rows."""
        shard, key, future = self._pending.popleft()
        table = future.result()
        old_columns = {c for _, c in self._state.shards.get(shard.url, ()) if c is not None}
        new_columns = set(table["column"].unique().to_pylist()) - {None}
        if old_columns and new_columns - old_columns:
            raise InputError(
                f"{shard.url}: OUTPUT has its images from column {old_columns.pop()!r}, not {new_columns.pop()!r}: "
                "choose another OUTPUT, or name that column with --column"
            )
        ids = table["image_id"].to_numpy()
        new = self._ids.add(ids)
        if shard.url in self._changed_shards:
            new = self._ids_in_changed_shards.add(ids)
        self._writer.add(table.filter(pa.array(new)), [key])
        self._count(read=1)

    def _count(self, found: int = 0, read: int = 0) -> None:
        self._found += found
        self._read += read
        if found or read:
            self._report(self._read, self._found)
