"""Bytes of images from their stores: neighbours in a shard in one request, what must be streamed once through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import pyarrow as pa

from pipeline.errors import InputError
from pipeline.storage import parquet_images, ranged_reads, tar
from pipeline.storage.filesystem import Place, store_kind
from pipeline.storage.object_file import ObjectError, ObjectFile
from pipeline.storage.ranged_reads import Range, merge_ranges
from pipeline.storage.retries import RETRY_SECONDS, catch_error, with_retries
from pipeline.storage.store_errors import one_line
from pipeline.storage.suffixes import ASSUMED_IMAGE_BYTES, STREAMED_KINDS

IMAGES, BYTES = 64, 32 << 20  # of one table, by the catalog's lengths
EMPTY = "EmptyFile: 0 bytes"
MAX_IMAGE_BYTES = 4 << 30  # bytes of one image: a video named .tif, say, would take all the memory of its machine
Contents = tuple[list[bytes | None], list[str | None]]  # data and error of each row
FETCHED = pa.schema(
    [
        ("image_id", pa.int64()),
        ("uri", pa.string()),
        ("error", pa.string()),
        ("data", pa.large_binary()),
    ]
)


class IsolateImage(Protocol):
    """Opens the context in which an image, or what else is named, is done by itself; see `Quarantine.batch`."""

    def __call__(self, image_id: int, what: str = "this image alone") -> AbstractContextManager[str | None]: ...


def fetch_images(
    rows: pa.Table, options: dict[str, Any], retry_seconds: float = RETRY_SECONDS, isolate: IsolateImage | None = None
) -> Iterator[pa.Table]:
    """Catalog rows with their bytes, in the schema `FETCHED`.

    Which rows make a table depends on the rows alone and on nothing that a store answers: Ray may run a task
    again, and then takes the first table of the second attempt for the first of the first, and so on.

    Args:
        isolate: given where reading has cost a process before (see `pipeline.stages.quarantine`): images are
            read one by one, those of a streamed shard a table at a time.

    Raises:
        InputError: a store refuses us, or did not answer for `retry_seconds` seconds.
    """
    for run in _runs(rows):
        streamed = run["kind"][0].as_py() in STREAMED_KINDS
        source = _Streamed(run, options, retry_seconds) if streamed else _Ranged(run, options, retry_seconds)
        for start, stop in _cuts(run["length"].to_pylist()):
            group = run.slice(start, stop - start)
            data, errors = source.take(start, stop) if isolate is None else source.apart(start, stop, isolate)
            _verify(group, data, errors, options, retry_seconds)
            found = [pa.array(errors, pa.string()), pa.array(data, pa.large_binary())]
            yield pa.table([group["image_id"], group["uri"], *found], schema=FETCHED)


def _runs(rows: pa.Table) -> Iterator[pa.Table]:
    """Rows that are read together: neighbours of one streamed container, in its order, or of none."""
    kinds, containers = rows["kind"].to_pylist(), rows["container"].to_pylist()
    groups = [container if kind in STREAMED_KINDS else None for kind, container in zip(kinds, containers, strict=True)]
    start = 0
    for i in range(1, len(rows) + 1):
        if i == len(rows) or groups[i] != groups[start]:
            run = rows.slice(start, i - start)
            yield run if groups[start] is None else run.sort_by([("part", "ascending"), ("offset", "ascending")])
            start = i


def _cuts(lengths: list[int | None]) -> Iterator[tuple[int, int]]:
    """(start, stop) of tables of bounded size."""
    start = total = 0
    for i, length in enumerate(lengths):
        size = ASSUMED_IMAGE_BYTES if length is None else length
        if i > start and (i - start >= IMAGES or total + size > BYTES):
            yield start, i
            start, total = i, 0
        total += size
    if start < len(lengths):
        yield start, len(lengths)


class _Ranged:
    """Loose images whole, members of tars in ranges."""

    def __init__(self, run: pa.Table, options: dict[str, Any], retry_seconds: float) -> None:
        self.run, self.options, self.retry_seconds = run, options, retry_seconds

    def take(self, start: int, stop: int) -> Contents:
        """What rows `start` to `stop` hold."""
        columns = ["container", "kind", "offset", "length", "error"]
        rows = self.run.slice(start, stop - start).select(columns).to_pylist()
        data: list[bytes | None] = [None] * len(rows)
        errors: list[str | None] = [row["error"] for row in rows]
        by_store: dict[str, list[int]] = {}
        for i, row in enumerate(rows):
            if row["kind"] == "tar" and row["length"] == 0:
                errors[i] = errors[i] or EMPTY
            errors[i] = errors[i] or _too_large(row["length"])
            if errors[i] is None:
                by_store.setdefault(store_kind(Place(row["container"]).protocol), []).append(i)
        for chosen in by_store.values():
            places = {i: Place(rows[i]["container"], self.options) for i in chosen}
            members = [
                (places[i].path, rows[i]["offset"], rows[i]["length"], i) for i in chosen if rows[i]["kind"] == "tar"
            ]
            # An image of its own is what it is now, whatever its size was.
            ranges = [Range(places[i].path, rows=[i]) for i in chosen if rows[i]["kind"] == "image"] + merge_ranges(
                members
            )
            for wanted, got in zip(
                ranges, ranged_reads.read_ranges(places[chosen[0]], ranges, self.retry_seconds), strict=True
            ):
                for i in wanted.rows:
                    if isinstance(got, Exception):
                        errors[i] = f"FetchError: {one_line(got)}"
                    elif wanted.start is None:
                        data[i] = got
                    else:
                        begin = rows[i]["offset"] - wanted.start
                        data[i] = got[begin : begin + rows[i]["length"]]
                    if data[i] == b"":
                        data[i], errors[i] = None, EMPTY
        return data, errors

    def apart(self, start: int, stop: int, isolate: IsolateImage) -> Contents:
        """The same, each row by itself."""
        data: list[bytes | None] = []
        errors: list[str | None] = []
        for i, image_id in enumerate(self.run["image_id"][start:stop].to_pylist(), start):
            with isolate(image_id) as error:
                found = self.take(i, i + 1) if error is None else ([None], [error])
            data += found[0]
            errors += found[1]
        return data, errors


class _Streamed:
    """Images of one .tgz or Parquet file, which is read as far as they go."""

    def __init__(self, run: pa.Table, options: dict[str, Any], retry_seconds: float) -> None:
        self.place = Place(run["container"][0].as_py(), options)
        self.run, self.retry_seconds = run, retry_seconds
        lengths = run["length"].to_pylist()
        self.errors = [e or _too_large(n) for e, n in zip(run["error"].to_pylist(), lengths, strict=True)]
        self.failure: str | None = None
        self._contents = self._read(0)
        self._next: tuple[int, bytes | None] | None = None

    def take(self, start: int, stop: int) -> Contents:
        """What rows `start` to `stop` hold; called with each range in turn."""
        data: list[bytes | None] = [None] * (stop - start)
        errors = self.errors[start:stop]
        seen = {i for i in range(start, stop) if self.errors[i] is not None}
        while len(seen) < stop - start:  # and not a row further: the next may be deadly, and no fault of these
            self._next = self._next or self._advance()
            if self._next is None or self._next[0] >= stop:
                break
            i, value = self._next
            seen.add(i)
            data[i - start] = value or None
            errors[i - start] = None if value else "NoBytes: null" if value is None else EMPTY
            self._next = None
        for i in set(range(start, stop)) - seen:
            errors[i - start] = self.failure or "FetchError: not in its shard"
        return data, errors

    def apart(self, start: int, stop: int, isolate: IsolateImage) -> Contents:
        """The same, by itself: a stream yields no single row of it without those before."""
        with isolate(self.run["image_id"][start].as_py(), "these images of their shard") as error:
            if error is None:
                return self.take(start, stop)
        self._contents, self._next = self._read(stop), None
        return [None] * (stop - start), [error] * (stop - start)

    def _advance(self) -> tuple[int, bytes | None] | None:
        try:
            return next(self._contents, None)
        except InputError:
            raise
        except ObjectError as error:
            self.failure = f"FetchError: {one_line(error.__cause__ or error)}"
        except Exception as error:  # readers fail in many ways on damaged or changed files
            self.failure = f"DamagedShard: {one_line(error)}"
        return None

    def _read(self, start: int) -> Iterator[tuple[int, bytes | None]]:
        """Rows from `start` on."""
        run, retry_seconds = self.run, self.retry_seconds
        (size,) = with_retries(self.place.url, lambda _: [catch_error(self.place.size)], [self.place], retry_seconds)
        if isinstance(size, Exception):
            raise ObjectError(self.place.url) from size
        file = ObjectFile(self.place, size, retry_seconds)
        parts, offsets = run["part"].to_pylist(), run["offset"].to_pylist()
        wanted = [i for i, error in enumerate(self.errors) if error is None and i >= start]
        if run["kind"][0].as_py() == "tgz":
            members: dict[int, list[int]] = {}
            for i in wanted:
                members.setdefault(offsets[i], []).append(i)
            yield from tar.read_members(file, members)
            return
        groups: dict[int, dict[int, int]] = {}
        for i in wanted:
            groups.setdefault(parts[i], {})[offsets[i]] = i
        yield from parquet_images.read_rows(file, run["column"][0].as_py(), groups)


def _too_large(length: int | None) -> str | None:
    """The error of an image of so many bytes, if that is too many."""
    if length is None or length <= MAX_IMAGE_BYTES:
        return None
    return f"TooManyBytes: {length:,} bytes are over the limit of {MAX_IMAGE_BYTES:,}"


def _verify(group: pa.Table, data: list[Any], errors: list[Any], options: dict[str, Any], retry_seconds: float) -> None:
    """Makes images of shards that are no longer what was catalogued errors: their bytes may be another image's."""
    rows = group.select(["container", "kind", "version", "error"]).to_pylist()
    shards = {r["container"]: r["version"] for r in rows if r["kind"] != "image" and r["error"] is None}
    now = dict(
        zip(shards, ranged_reads.current_versions([Place(url, options) for url in shards], retry_seconds), strict=True)
    )
    for i, row in enumerate(rows):
        if row["container"] not in shards or row["error"] is not None or now[row["container"]] == row["version"]:
            continue
        if not isinstance(now[row["container"]], Exception) or errors[i] is None:
            name = row["container"].rsplit("/", 1)[-1]
            errors[i] = f"ChangedShard: {name} changed during the job; run again with --retry-errors"
        data[i] = None
