"""Bytes from a store, with retry_seconds: ranges of objects, and an object as a file that is read ahead."""

from __future__ import annotations

import errno
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pipeline.storage.filesystem import Place, error_code, explain, family

T = TypeVar("T")
RETRY_SECONDS = 180.0  # seconds for which a store may be out of reach before the job stops
GAP = 64 << 10  # bytes between two pieces worth reading along: a request costs more than they do
LARGEST = 32 << 20  # bytes in one request
FIRST, AHEAD = 8 << 10, 8 << 20  # bytes of a request after a jump; of one in the middle of a file read on and on
# S3's word that it is we who are refused, or the bucket is gone: no fault of one image.
REFUSALS = {
    "ExpiredToken",
    "InvalidToken",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "RequestTimeTooSkewed",
    "NoSuchBucket",
}


@dataclass
class Range:
    """One request: bytes `start` to `stop` of `path`, or all of it, and the rows of a batch that lie in it."""

    path: str
    start: int | None = None
    stop: int | None = None
    rows: list[int] = field(default_factory=list)


def merge(wanted: Sequence[tuple[str, int, int, int]]) -> list[Range]:
    """Requests for (path, offset, length, row), neighbours together, in order of path and offset."""
    ranges: list[Range] = []
    start = stop = 0
    for path, offset, length, row in sorted(wanted):
        near = offset - stop <= GAP and offset + length - start <= LARGEST
        if ranges and ranges[-1].path == path and near:
            stop = max(stop, offset + length)
            ranges[-1].stop = stop
            ranges[-1].rows.append(row)
        else:
            start, stop = offset, offset + length
            ranges.append(Range(path, start, stop, [row]))
    return ranges


def read(place: Place, ranges: Sequence[Range], retry_seconds: float = RETRY_SECONDS) -> list[Any]:
    """The bytes of each range of objects in the store of `place`, or the exception that is the object's own fault.

    Raises:
        InputError: the store did not answer for `retry_seconds` seconds, or refuses us.
    """
    # Or s3fs would ask for the size of an object first, to read large ones in parts.
    extra = {"max_concurrency": 1} if family(place.protocol) == "s3" else {}

    def ask(some: Sequence[Range]) -> list[Any]:
        paths, starts, stops = ([getattr(r, name) for r in some] for name in ("path", "start", "stop"))
        got = place.fs.cat_ranges(paths, starts, stops, on_error="return", **extra)
        return [_checked(r, data) for r, data in zip(some, got, strict=True)]

    return with_retries(place.url, ask, ranges, retry_seconds)


def _checked(wanted: Range, data: Any) -> Any:
    """What a store answered, or an error if it gave more: then it began where nobody asked it to, with other bytes."""
    asked = (wanted.stop or 0) - (wanted.start or 0)
    if not wanted.start or isinstance(data, Exception) or len(data) <= asked:
        return data
    return ValueError(
        f"asked for {asked:,} bytes from {wanted.start:,} on, the server sent {len(data):,}: it does not support "
        "range requests, which shards need"
    )


def versions(places: Sequence[Place], retry_seconds: float = RETRY_SECONDS) -> list[Any]:
    """The version of each object as it is now, or the exception that is the object's own fault.

    Raises:
        InputError: a store did not answer for `retry_seconds` seconds, or refuses us.
    """

    def ask(some: Sequence[Place]) -> list[Any]:
        return [or_error(p.version) for p in some]

    return with_retries(places[0].url, ask, places, retry_seconds) if places else []


def with_retries(
    where: str, ask: Callable[[Sequence[T]], list[Any]], wanted: Sequence[T], retry_seconds: float
) -> list[Any]:
    """What `ask` gives for each thing wanted; asked again, with growing pauses, where it may help.

    Raises:
        InputError: after `retry_seconds` seconds, or at once where it is we who are refused.
    """
    results: list[Any] = [None] * len(wanted)
    left, pause, deadline = list(range(len(wanted))), 1.0, time.monotonic() + retry_seconds
    while left:
        for i, value in zip(left, ask([wanted[i] for i in left]), strict=True):
            results[i] = value
            if isinstance(value, Exception) and (error_code(value) or error_code(value.__cause__)) in REFUSALS:
                raise explain(where, value)
        left = [i for i in left if isinstance(results[i], Exception) and not _final(results[i])]
        if left and time.monotonic() + pause > deadline:
            raise explain(where, results[left[0]])
        if left:
            time.sleep(pause)
            pause = min(pause * 2, 20.0)
    return results


class ObjectError(Exception):
    """An object cannot be read, by its own fault; the cause is the store's error."""


class ObjectFile(io.RawIOBase):
    """An object as a seekable file, read in ranges with retry_seconds.

    After a jump it reads little, and more with each read that goes on from there: so headers between large
    members cost a small request each, and small members are read along with them.

    Args:
        size: bytes of the object.

    Raises:
        ObjectError: by reads, if the object cannot be read.
        InputError: by reads, if its store cannot.
    """

    def __init__(self, place: Place, size: int, retry_seconds: float = RETRY_SECONDS) -> None:
        super().__init__()
        self._place, self._size, self._patience = place, size, retry_seconds
        self._position, self._start, self._ahead = 0, 0, FIRST
        self._buffer = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def read(self, size: int = -1) -> bytes:
        """The next bytes: as many as asked for, unless the object ends before."""
        stop = self._size if size is None or size < 0 else min(self._position + size, self._size)
        pieces: list[bytes] = []
        while self._position < stop:
            at = self._position - self._start
            if not 0 <= at < len(self._buffer):
                self._fill(stop - self._position)
                at = 0
            piece = self._buffer[at : at + stop - self._position]
            if not piece:
                break  # shorter than it was
            self._position += len(piece)
            pieces.append(piece)
        return b"".join(pieces)

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _fill(self, needed: int) -> None:
        """Makes the buffer begin at the position and hold what is needed, and some more."""
        going_on = 0 <= self._position - self._start - len(self._buffer) <= GAP and self._start + len(self._buffer) > 0
        self._ahead = min(self._ahead * 4, AHEAD) if going_on else FIRST
        stop = min(self._position + min(max(needed, self._ahead), LARGEST), self._size)
        (got,) = read(self._place, [Range(self._place.path, self._position, stop)], self._patience)
        if isinstance(got, Exception):
            raise ObjectError(self._place.url) from got
        self._start, self._buffer = self._position, got


def or_error(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:  # every store has errors of its own
        return error


def _final(error: Exception) -> bool:
    """Whether asking again cannot help: the object is missing, forbidden, a folder, or shorter than it was."""
    if 400 <= getattr(error, "status", 0) < 500:  # a web server's word
        return getattr(error, "status", 0) not in (408, 429)
    wrong = FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError | ValueError
    return isinstance(error, wrong) or getattr(error, "errno", None) == errno.EINVAL
