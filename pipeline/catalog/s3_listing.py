"""Lists objects on S3 page by page, several prefixes at a time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from pipeline.storage import Place

PAGE = 1000  # keys per page, the most that S3 returns
LISTERS = 16  # prefixes listed at the same time
LEVELS = 3  # levels to descend in search of enough prefixes
Entry = tuple[str, dict[str, Any]]  # path, and its type, size, and etag or time of change


def list_children(place: Place, path: str) -> Iterator[Entry]:
    """Lists the objects and prefixes directly below a prefix; nothing if it does not exist."""
    for prefixes, files, _ in _pages(place, path, "/"):
        yield from ((prefix, {"type": "directory"}) for prefix in prefixes)
        yield from files


def list_all(place: Place, path: str) -> Iterator[Entry]:
    """Lists all objects below a prefix, in no particular order.

    S3 returns pages of one listing one after another. To list in parallel, this descends up to `LEVELS` levels until
    it has `LISTERS` prefixes, and then lists those at the same time.
    """
    prefixes, flat = [path], list[str]()
    for _ in range(LEVELS):
        if not 0 < len(prefixes) + len(flat) < LISTERS:
            break
        deeper: list[str] = []
        for prefix in prefixes:
            children, files, complete = next(_pages(place, prefix, "/"))
            if complete:
                deeper += children
                yield from files
            else:  # more than a page of children: listing each of them could cost one request per image
                flat.append(prefix)
        prefixes = deeper
    for page in _interleave([partial(_file_pages, place, prefix) for prefix in flat + prefixes]):
        yield from page


def _pages(place: Place, path: str, delimiter: str = "") -> Iterator[tuple[list[str], list[Entry], bool]]:
    """(prefixes, files, whether this is the last page) of each page of a listing."""
    bucket, _, key = path.partition("/")
    prefix = f"{key.rstrip('/')}/" if key else ""
    request: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix, "Delimiter": delimiter, "MaxKeys": PAGE}
    while True:
        page = place.fs.call_s3("list_objects_v2", **request)
        files = [
            (f"{bucket}/{o['Key']}", {"type": "file", "size": o["Size"], "ETag": o.get("ETag")})
            for o in page.get("Contents", ())
            if not o["Key"].endswith("/")  # some tools write an empty object for a folder
        ]
        prefixes = [f"{bucket}/{p['Prefix']}".rstrip("/") for p in page.get("CommonPrefixes", ())]
        yield prefixes, files, not page.get("IsTruncated")
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]


def _file_pages(place: Place, path: str) -> Iterator[list[Entry]]:
    return (files for _, files, _ in _pages(place, path))


def _interleave(sources: Sequence[Callable[[], Iterable[list[Entry]]]]) -> Iterator[list[Entry]]:
    """Reads the pages of `LISTERS` sources at the same time. At most 2 * `LISTERS` pages wait in memory."""
    pages: queue.Queue[list[Entry] | Exception | None] = queue.Queue(2 * LISTERS)
    stop = threading.Event()

    def read(source: Callable[[], Iterable[list[Entry]]]) -> None:
        try:
            for page in () if stop.is_set() else source():
                pages.put(page)
                if stop.is_set():
                    return
            pages.put(None)
        except Exception as error:  # the error type depends on the store
            pages.put(error)

    with ThreadPoolExecutor(LISTERS) as pool:
        futures = [pool.submit(read, source) for source in sources]
        unfinished = len(futures)
        try:
            while unfinished:
                page = pages.get()
                if isinstance(page, Exception):
                    raise page
                unfinished -= page is None
                yield page or []
        finally:
            stop.set()
            for future in futures:
                future.cancel()
            while any(not f.done() for f in futures):  # a thread may be waiting for space in the queue
                try:
                    pages.get(timeout=0.05)
                except queue.Empty:
                    continue
