"""Bytes of images from their stores: ranged reads, neighbours in a shard in one request."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.progress import Progress
from pipeline.storage import Place, error_code, explain, one_line

GAP = 64 << 10  # bytes between two members worth reading along: a request costs more than they do
LARGEST = 32 << 20  # bytes in one request
PATIENCE = 180.0  # seconds for which a store may be out of reach before the job stops
# S3's word that it is we who are refused, or the bucket is gone: no fault of one image.
REFUSALS = {
    "ExpiredToken",
    "InvalidToken",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "RequestTimeTooSkewed",
    "NoSuchBucket",
}
FETCHED = pa.schema(
    [
        ("image_id", pa.int64()),
        ("uri", pa.string()),
        ("error", pa.string()),
        ("data", pa.large_binary()),
    ]
)


@dataclass
class Range:
    """One request: bytes `start` to `stop` of `path`, and the rows of the batch that lie in it."""

    path: str
    start: int
    stop: int
    rows: list[int]


class Fetch:
    """A batch of catalog rows in, the same rows with their bytes out.

    An object that is gone or forbidden is an error of its images. Credentials that are no longer good, or
    a store that does not answer, are not: the one stops the job, the other is asked again with growing
    pauses and stops it after `PATIENCE` seconds. Either way it can be continued with nothing lost.
    """

    def __init__(self, options: dict[str, Any], progress: Progress) -> None:
        self.options, self.progress = options, progress

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        with self.progress.stage("fetch") as passed:
            data, errors = self._read(batch)
            passed["images"], passed["bytes"] = len(batch), sum(len(d) for d in data if d)
        columns = [batch["image_id"], batch["uri"], pa.array(errors, pa.string()), pa.array(data, pa.large_binary())]
        yield pa.table(columns, schema=FETCHED)

    def _read(self, batch: pa.Table) -> tuple[list[bytes | None], list[str | None]]:
        data: list[bytes | None] = [None] * len(batch)
        errors: list[str | None] = batch["error"].to_pylist()
        urls, offsets, lengths = (batch[c].to_pylist() for c in ("container", "offset", "length"))
        for i, length in enumerate(lengths):
            if errors[i] is None and length == 0:
                errors[i] = "EmptyFile: 0 bytes"
        rows = [i for i, error in enumerate(errors) if error is None]
        by_store: dict[str, list[int]] = {}
        for i in rows:
            by_store.setdefault(urls[i].split("://")[0] if "://" in urls[i] else "file", []).append(i)
        for members in by_store.values():
            place = Place(urls[members[0]], self.options)
            paths = {i: Place(urls[i], self.options).path for i in members}
            ranges = merge([(paths[i], offsets[i], lengths[i], i) for i in members])
            for wanted, got in zip(ranges, _patiently(place, ranges), strict=True):
                for i in wanted.rows:
                    if isinstance(got, Exception):
                        errors[i] = f"FetchError: {one_line(got)}"
                    else:
                        start = offsets[i] - wanted.start
                        data[i] = got[start : start + lengths[i]]
        return data, errors


def merge(wanted: list[tuple[str, int, int, int]]) -> list[Range]:
    """Requests for (path, offset, length, row), neighbours together, in order of path and offset."""
    ranges: list[Range] = []
    for path, offset, length, row in sorted(wanted):
        last = ranges[-1] if ranges else None
        near = last and last.path == path and offset - last.stop <= GAP and offset + length - last.start <= LARGEST
        if last and near:
            last.stop = max(last.stop, offset + length)
            last.rows.append(row)
        else:
            ranges.append(Range(path, offset, offset + length, [row]))
    return ranges


def _patiently(place: Place, ranges: list[Range], sleep: Callable[[float], None] = time.sleep) -> list[Any]:
    """The bytes of each range, or the exception that is the image's own fault.

    Raises:
        InputError: the store did not answer for `PATIENCE` seconds.
    """
    results: list[Any] = [None] * len(ranges)
    left, pause, deadline = list(range(len(ranges))), 1.0, time.monotonic() + PATIENCE
    while left:
        chosen = [ranges[i] for i in left]
        paths, starts, stops = zip(*((r.path, r.start, r.stop) for r in chosen), strict=True)
        got = place.fs.cat_ranges(list(paths), list(starts), list(stops), on_error="return")
        for i, value in zip(left, got, strict=True):
            results[i] = value
            if isinstance(value, Exception) and error_code(value.__cause__) in REFUSALS:
                raise explain(place.url, value)
        left = [i for i in left if isinstance(results[i], Exception) and not _final(results[i])]
        if left and time.monotonic() + pause > deadline:
            raise explain(place.url, results[left[0]])
        if left:
            sleep(pause)
            pause = min(pause * 2, 20.0)
    return results


def _final(error: Exception) -> bool:
    """Whether asking again cannot help: the object is missing, forbidden, a folder, or shorter than it was."""
    wrong = FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError | ValueError
    return isinstance(error, wrong) or getattr(error, "errno", None) == errno.EINVAL
