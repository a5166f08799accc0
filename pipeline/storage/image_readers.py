"""Readers of the images in a run of catalog rows: one for byte ranges, one for containers that are streamed.

Both have the same two methods. A damaged, missing or empty image is an error of its row, never an exception.
To add an input container, give it a reader beside `tar` and `parquet_images`, and call that in `StreamedReader._stream`
if it can only be read from start to end, else in `RangedReader.read`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

from pipeline.errors import InputError
from pipeline.storage.containers import parquet_images, tar
from pipeline.storage.filesystem import Place
from pipeline.storage.object_file import ObjectError, ObjectFile
from pipeline.storage.ranged_reads import ByteRange, merge_ranges, read_ranges
from pipeline.storage.retries import catch_error, with_retries
from pipeline.storage.store_errors import one_line, store_kind

EMPTY = "EmptyFile: 0 bytes"
MAX_IMAGE_BYTES = 4 << 30  # a larger file is hardly an image (a video named .tif, say) and would exhaust the memory
Row = dict[str, Any]  # columns of a catalog row


class IsolateImage(Protocol):
    """Opens the context in which one image is processed alone; see `pipeline.stages.quarantine`.

    The context yields None, or the error of an image that must not be tried again. `what` names the image, or the
    group of images, in that error.
    """

    def __call__(self, image_id: int, what: str = "this image alone") -> AbstractContextManager[str | None]: ...


class Images(NamedTuple):
    """Bytes and error of each row; one of the two is None."""

    data: list[bytes | None]
    errors: list[str | None]


class RangedReader:
    """Reads loose images whole, and members of tar shards by their byte ranges.

    Args:
        run: catalog rows of the kinds "image" and "tar".
        options: fsspec storage options.
        retry_seconds: how long to retry, see `retries`.
    """

    def __init__(self, run: pa.Table, options: dict[str, Any], retry_seconds: float) -> None:
        self._run, self._options, self._retry_seconds = run, options, retry_seconds

    def read(self, start: int, stop: int) -> Images:
        """Reads rows `start` to `stop`, with concurrent requests."""
        columns = ["container", "kind", "offset", "length", "error"]
        rows = self._run.slice(start, stop - start).select(columns).to_pylist()
        images = Images([None] * len(rows), [_error_before_reading(row) for row in rows])
        by_store: dict[str, list[int]] = {}
        for i, row in enumerate(rows):
            if images.errors[i] is None:
                by_store.setdefault(store_kind(Place(row["container"]).protocol), []).append(i)
        for indices in by_store.values():
            self._read_from_store({i: rows[i] for i in indices}, images)
        return images

    def read_isolated(self, start: int, stop: int, isolate: IsolateImage) -> Images:
        """Reads the same rows one by one, each in its isolation context."""
        images = Images([], [])
        for i, image_id in enumerate(self._run["image_id"][start:stop].to_pylist(), start):
            with isolate(image_id) as error:
                found = self.read(i, i + 1) if error is None else Images([None], [error])
            images.data.extend(found.data)
            images.errors.extend(found.errors)
        return images

    def _read_from_store(self, rows: dict[int, Row], images: Images) -> None:
        """Reads rows of one store, by their index, into `images`."""
        places = {i: Place(row["container"], self._options) for i, row in rows.items()}
        # A loose image is read whole, even if its size has changed since it was catalogued.
        loose = [ByteRange(places[i].path, rows=[i]) for i, row in rows.items() if row["kind"] == "image"]
        members = [(places[i].path, r["offset"], r["length"], i) for i, r in rows.items() if r["kind"] == "tar"]
        ranges = loose + merge_ranges(members)
        answers = read_ranges(next(iter(places.values())), ranges, self._retry_seconds)
        for requested, answer in zip(ranges, answers, strict=True):
            for i in requested.rows:
                if isinstance(answer, Exception):
                    images.errors[i] = f"FetchError: {one_line(answer)}"
                elif requested.start is None:
                    images.data[i] = answer
                else:
                    begin = rows[i]["offset"] - requested.start
                    images.data[i] = answer[begin : begin + rows[i]["length"]]
                if images.data[i] == b"":
                    images.data[i], images.errors[i] = None, EMPTY


class StreamedReader:
    """Reads the images of one .tgz or Parquet file, from its start to the last image asked for.

    Args:
        run: catalog rows of one container, in its order.
        options: fsspec storage options.
        retry_seconds: how long to retry, see `retries`.
    """

    def __init__(self, run: pa.Table, options: dict[str, Any], retry_seconds: float) -> None:
        self._place = Place(run["container"][0].as_py(), options)
        self._run, self._retry_seconds = run, retry_seconds
        self._errors = [_error_before_reading(row) for row in run.select(["kind", "length", "error"]).to_pylist()]
        self._stream_error: str | None = None
        self._images = self._stream(0)
        self._pending: tuple[int, bytes | None] | None = None  # row and bytes of an image that a later call returns

    def read(self, start: int, stop: int) -> Images:
        """Reads rows `start` to `stop`. Each call must continue where the last one stopped."""
        images = Images([None] * (stop - start), self._errors[start:stop])
        found = {i for i in range(start, stop) if self._errors[i] is not None}
        while len(found) < stop - start:  # reads no further than needed: the next image may crash the process
            self._pending = self._pending or self._next_image()
            if self._pending is None or self._pending[0] >= stop:
                break
            i, data = self._pending
            found.add(i)
            images.data[i - start] = data or None
            images.errors[i - start] = None if data else "NoBytes: null" if data is None else EMPTY
            self._pending = None
        for i in set(range(start, stop)) - found:
            images.errors[i - start] = self._stream_error or "FetchError: not in its shard"
        return images

    def read_isolated(self, start: int, stop: int, isolate: IsolateImage) -> Images:
        """Reads the same rows in one isolation context: a stream cannot be read at one row alone."""
        with isolate(self._run["image_id"][start].as_py(), "these images of their shard") as error:
            if error is None:
                return self.read(start, stop)
        self._images, self._pending = self._stream(stop), None
        return Images([None] * (stop - start), [error] * (stop - start))

    def _next_image(self) -> tuple[int, bytes | None] | None:
        """Returns row and bytes of the next image, or None at the end or after an error of the container."""
        try:
            return next(self._images, None)
        except InputError:
            raise
        except ObjectError as error:
            self._stream_error = f"FetchError: {one_line(error.__cause__ or error)}"
        except Exception as error:  # the libraries raise errors of many classes on damaged or changed files
            self._stream_error = f"DamagedShard: {one_line(error)}"
        return None

    def _stream(self, start: int) -> Iterator[tuple[int, bytes | None]]:
        """Yields row and bytes of each image from row `start` on."""
        run, place = self._run, self._place
        (size,) = with_retries(place.url, lambda _: [catch_error(place.size)], [place], self._retry_seconds)
        if isinstance(size, Exception):
            raise ObjectError(place.url) from size
        file = ObjectFile(place, size, self._retry_seconds)
        parts, offsets = run["part"].to_pylist(), run["offset"].to_pylist()
        wanted = [i for i, error in enumerate(self._errors) if error is None and i >= start]
        if run["kind"][0].as_py() == "tgz":
            members: dict[int, list[int]] = {}
            for i in wanted:
                members.setdefault(offsets[i], []).append(i)
            yield from tar.read_members(file, members)
            return
        row_groups: dict[int, dict[int, int]] = {}
        for i in wanted:
            row_groups.setdefault(parts[i], {})[offsets[i]] = i
        yield from parquet_images.read_rows(file, run["column"][0].as_py(), row_groups)


def _error_before_reading(row: Row) -> str | None:
    """Returns the error of a row whose image need not be read: it has one, is empty, or is too large."""
    if row["error"]:
        return row["error"]
    if row["kind"] == "tar" and row["length"] == 0:
        return EMPTY
    if row["length"] is not None and row["length"] > MAX_IMAGE_BYTES:
        return f"TooManyBytes: {row['length']:,} bytes are over the limit of {MAX_IMAGE_BYTES:,}"
    return None
