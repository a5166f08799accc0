"""Reads byte ranges of objects, many in one call, with retries. Neighbouring ranges share a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.storage.filesystem import Place
from pipeline.storage.retries import RETRY_SECONDS, catch_error, with_retries
from pipeline.storage.store_errors import store_kind

MERGE_GAP = 64 << 10  # bytes: two ranges closer than this are one request, since another request would cost more
MAX_REQUEST_BYTES = 32 << 20


@dataclass
class ByteRange:
    """One request: bytes `start` to `stop` of an object, or all of it.

    Attributes:
        path: as the filesystem names the object.
        start: the first byte; None: the whole object.
        stop: the byte after the last.
        rows: indices of the rows of a batch whose images lie in this range.
    """

    path: str
    start: int | None = None
    stop: int | None = None
    rows: list[int] = field(default_factory=list)


def merge_ranges(wanted: Sequence[tuple[str, int, int, int]]) -> list[ByteRange]:
    """Merges neighbours into one request of at most `MAX_REQUEST_BYTES`.

    Args:
        wanted: (path, offset, length, row) of each image. One larger than `MAX_REQUEST_BYTES` is still one request.

    Returns:
        The requests, sorted by path and offset.
    """
    ranges: list[ByteRange] = []
    start = stop = 0
    for path, offset, length, row in sorted(wanted):
        near = offset - stop <= MERGE_GAP and offset + length - start <= MAX_REQUEST_BYTES
        if ranges and ranges[-1].path == path and near:
            stop = max(stop, offset + length)
            ranges[-1].stop = stop
            ranges[-1].rows.append(row)
        else:
            start, stop = offset, offset + length
            ranges.append(ByteRange(path, start, stop, [row]))
    return ranges


def read_ranges(place: Place, ranges: Sequence[ByteRange], retry_seconds: float = RETRY_SECONDS) -> list[Any]:
    """Reads ranges of objects concurrently.

    Args:
        place: any place in the store of the objects.
        ranges: what to read.
        retry_seconds: how long to retry, see `retries`.

    Returns:
        For each range its bytes, or the exception that concerns only this object.

    Raises:
        InputError: the store did not answer for `retry_seconds`, or refuses the job itself.
    """
    # Without max_concurrency=1, s3fs asks for the size of each object first, to read large ones in parts.
    extra = {"max_concurrency": 1} if store_kind(place.protocol) == "s3" else {}

    def request(some: Sequence[ByteRange]) -> list[Any]:
        paths, starts, stops = ([getattr(r, name) for r in some] for name in ("path", "start", "stop"))
        answers = place.fs.cat_ranges(paths, starts, stops, on_error="return", **extra)
        return [_checked(r, answer) for r, answer in zip(some, answers, strict=True)]

    return with_retries(place.url, request, ranges, retry_seconds)


def current_versions(places: Sequence[Place], retry_seconds: float = RETRY_SECONDS) -> list[Any]:
    """Asks the stores for the current version of each object.

    Returns:
        For each object its version, or the exception that concerns only this object.

    Raises:
        InputError: a store did not answer for `retry_seconds`, or refuses the job itself.
    """

    def request(some: Sequence[Place]) -> list[Any]:
        return [catch_error(p.version) for p in some]

    return with_retries(places[0].url, request, places, retry_seconds) if places else []


def _checked(wanted: ByteRange, answer: Any) -> Any:
    """Returns the answer, or an error if a server ignored the range: then its bytes start at another offset."""
    expected = (wanted.stop or 0) - (wanted.start or 0)
    if not wanted.start or isinstance(answer, Exception) or len(answer) <= expected:
        return answer
    return ValueError(
        f"asked for {expected:,} bytes from byte {wanted.start:,}, the server sent {len(answer):,}: "
        "it does not support range requests, which shards need"
    )
