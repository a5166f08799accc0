"""Bytes from a store, with retry_seconds: ranges of objects, and an object as a file that is read ahead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.storage.filesystem import Place, store_kind
from pipeline.storage.retries import RETRY_SECONDS, catch_error, with_retries

MERGE_GAP = 64 << 10  # bytes between two pieces worth reading along: a request costs more than they do
MAX_REQUEST_BYTES = 32 << 20  # bytes in one request


@dataclass
class Range:
    """One request: bytes `start` to `stop` of `path`, or all of it, and the rows of a batch that lie in it."""

    path: str
    start: int | None = None
    stop: int | None = None
    rows: list[int] = field(default_factory=list)


def merge_ranges(wanted: Sequence[tuple[str, int, int, int]]) -> list[Range]:
    """Requests for (path, offset, length, row), neighbours together, in order of path and offset."""
    ranges: list[Range] = []
    start = stop = 0
    for path, offset, length, row in sorted(wanted):
        near = offset - stop <= MERGE_GAP and offset + length - start <= MAX_REQUEST_BYTES
        if ranges and ranges[-1].path == path and near:
            stop = max(stop, offset + length)
            ranges[-1].stop = stop
            ranges[-1].rows.append(row)
        else:
            start, stop = offset, offset + length
            ranges.append(Range(path, start, stop, [row]))
    return ranges


def read_ranges(place: Place, ranges: Sequence[Range], retry_seconds: float = RETRY_SECONDS) -> list[Any]:
    """The bytes of each range of objects in the store of `place`, or the exception that is the object's own fault.

    Raises:
        InputError: the store did not answer for `retry_seconds` seconds, or refuses us.
    """
    # Or s3fs would ask for the size of an object first, to read large ones in parts.
    extra = {"max_concurrency": 1} if store_kind(place.protocol) == "s3" else {}

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


def current_versions(places: Sequence[Place], retry_seconds: float = RETRY_SECONDS) -> list[Any]:
    """The version of each object as it is now, or the exception that is the object's own fault.

    Raises:
        InputError: a store did not answer for `retry_seconds` seconds, or refuses us.
    """

    def ask(some: Sequence[Place]) -> list[Any]:
        return [catch_error(p.version) for p in some]

    return with_retries(places[0].url, ask, places, retry_seconds) if places else []
