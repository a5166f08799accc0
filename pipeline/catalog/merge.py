"""What an update of the catalog does: takes containers in, reads shards, and writes anew what has changed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.catalog import catalog_files, shard_index
from pipeline.catalog.id_set import IdSet, contains
from pipeline.catalog.inputs import Container, selector
from pipeline.errors import InputError
from pipeline.schema import image_id

READERS = 16  # shards opened at once; the work is waiting for a store


class Update:
    """One update: what was known before, what has come since."""

    def __init__(
        self,
        known: catalog_files.Known,
        writer: catalog_files.Writer,
        pattern: str | None,
        column: str | None,
        options: dict[str, Any],
        report: Callable[[int, int], None],
    ) -> None:
        self.known, self.writer, self.options, self.report = known, writer, options, report
        self.pattern, self.column = pattern, column
        self.wanted = selector(pattern) if pattern else None
        self.ids = IdSet(known.ids)
        self.fresh = IdSet()  # ids of images in changed shards
        self.changed: dict[str, str] = {}  # version by URL
        self.came: set[int] = set()  # keys
        self.pool = ThreadPoolExecutor(READERS)
        self.waiting: deque[tuple[Container, int, Future[pa.Table]]] = deque()
        self.read = self.total = 0

    def take(self, batch: list[Container]) -> None:
        """Adds what is new of some containers."""
        loose = [c for c in batch if c.kind == "image"]
        if loose:
            new = self.ids.add(np.fromiter((image_id(c.url) for c in loose), np.int64, len(loose)))
            self.writer.add(shard_index.loose(loose[i] for i in np.flatnonzero(new)))
            self._count(found=int(new.sum()), read=int(new.sum()))
        for shard in batch:
            if shard.kind != "image":
                self._open(shard)

    def finish(self) -> None:
        """Waits for the shards that are still being read, and writes everything."""
        while self.waiting:
            self._collect()
        self.writer.flush()

    def rewrite(self, done: np.ndarray) -> None:
        """Writes the old files anew, each row once, without those that no longer stand for an image."""
        changed = pa.array(self.changed, pa.string()), pa.array(self.changed.values(), pa.string())
        once = IdSet()
        for table, keys in catalog_files.tables(self.known.files):
            ids = table["image_id"].to_numpy()
            at = pc.index_in(table["container"], value_set=changed[0])
            stale = (
                pc.is_valid(at).to_numpy()
                | pc.fill_null(pc.equal(table["error"], catalog_files.GONE), False).to_numpy()
            )
            keep = (~stale | contains(done, ids)) & ~self.fresh.has(ids)
            keep[keep] = once.add(ids[keep])
            table, at = table.filter(pa.array(keep)), at.filter(pa.array(keep))
            version = pc.coalesce(changed[1].take(at.combine_chunks()), table["version"])
            error = pc.if_else(pc.is_valid(at), catalog_files.GONE, table["error"])
            for name, values in (("version", version), ("error", error)):
                i = table.schema.get_field_index(name)
                table = table.set_column(i, table.schema.field(i), values)
            self.writer.add(table, keys)
        self.writer.flush()
        for place in self.known.files:
            place.fs.rm_file(place.path)

    def _open(self, shard: Container) -> None:
        column = self.column if shard.kind == "parquet" else None
        key = catalog_files.key(shard.url, shard.version, self.pattern, column)
        versions = {version for version, _ in self.known.shards.get(shard.url, ())}
        if key in self.came or (key in self.known.opened and versions <= {shard.version}):
            return
        self.came.add(key)
        if not versions <= {shard.version}:
            self.changed[shard.url] = shard.version
        self.waiting.append((shard, key, self.pool.submit(shard_index.rows, shard, self.options, self.wanted, column)))
        self._count(found=1)
        while len(self.waiting) > 2 * READERS:
            self._collect()

    def _collect(self) -> None:
        shard, key, future = self.waiting.popleft()
        table = future.result()
        before = {c for _, c in self.known.shards.get(shard.url, ()) if c is not None}
        now = set(table["column"].unique().to_pylist()) - {None}
        if before and now - before:
            raise InputError(
                f"{shard.url}: OUTPUT has its images of column {before.pop()!r}, not {now.pop()!r}: "
                "choose another OUTPUT, or that --column"
            )
        ids = table["image_id"].to_numpy()
        new = self.ids.add(ids)
        if shard.url in self.changed:
            new = self.fresh.add(ids)
        self.writer.add(table.filter(pa.array(new)), [key])
        self._count(read=1)

    def _count(self, found: int = 0, read: int = 0) -> None:
        self.total += found
        self.read += read
        if found or read:
            self.report(self.read, self.total)
