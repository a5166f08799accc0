"""What lies in a store, in pieces as it is listed: never the names of a whole prefix at once.

S3 is listed page by page, several prefixes at a time; a local folder by its names alone; another store
folder by folder.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import queue
import re
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from typing import Any

from fsspec.utils import glob_translate

from pipeline.errors import InputError
from pipeline.storage import Place, local_info, store_kind

PAGE = 1000  # keys of an S3 listing, the most that a store gives
LISTERS = 16  # prefixes of an S3 bucket listed at once
Entry = tuple[str, dict[str, Any]]  # path, and what the store says of it: type, size, etag or time of change


def info(place: Place, path: str) -> dict[str, Any] | None:
    """What there is of this name: its type, size and etag or time of change; None if there is nothing."""
    try:
        if place.protocol == "file":
            return {"type": "directory"} if os.path.isdir(path) else local_info(path)
        return place.fs.info(path)
    except FileNotFoundError:
        return None


def below(place: Place, path: str) -> Iterator[Entry]:
    """Every file below a folder or prefix."""
    return _s3_below(place, path) if store_kind(place.protocol) == "s3" else _walk(place, path)


def matching(place: Place, pattern: str) -> Iterator[Entry]:
    """Every file that a glob matches, and those below folders that it matches; `**` crosses folders."""
    segments = pattern.split("/")
    plain = next(i for i, segment in enumerate(segments) if glob.has_magic(segment))
    return _glob(place, "/".join(segments[:plain]), segments[plain:])


def _glob(place: Place, base: str, segments: list[str]) -> Iterator[Entry]:
    head, rest = segments[0], segments[1:]
    if "**" in head:
        wanted = re.compile(glob_translate("/".join([base, *segments])))
        top = base.count("/") + 1
        for path, found in below(place, base):
            parts = path.split("/")
            if any(wanted.match("/".join(parts[:n])) for n in range(len(parts), top, -1)):
                yield path, found
        return
    if not glob.has_magic(head):
        path = f"{base}/{head}"
        if rest:
            yield from _glob(place, path, rest)
        else:
            yield from _at(place, path)
        return
    match = re.compile(fnmatch.translate(head)).match
    for path, found in _children(place, base):
        if not match(path.rsplit("/", 1)[-1]):
            continue
        if found["type"] == "directory":
            yield from _glob(place, path, rest) if rest else below(place, path)
        elif not rest:
            yield path, found


def _at(place: Place, path: str) -> Iterator[Entry]:
    """A file of this name, or those below a folder of this name."""
    found = info(place, path)
    if found is not None:
        yield from [(path, found)] if found["type"] == "file" else below(place, path)


def _children(place: Place, path: str) -> Iterator[Entry]:
    """What lies directly in a folder or prefix; nothing if there is none."""
    if store_kind(place.protocol) == "s3":
        for prefixes, files, _ in _s3_pages(place, path, "/"):
            yield from ((prefix, {"type": "directory"}) for prefix in prefixes)
            yield from files
        return
    if place.protocol == "file":
        yield from _local_children(path)
        return
    try:
        listed = place.fs.ls(path, detail=True)
    except FileNotFoundError:
        return
    for found in sorted(listed, key=lambda i: str(i["name"])):
        if str(found["name"]).rstrip("/") != path.rstrip("/"):
            yield str(found["name"]).rstrip("/"), found


def _walk(place: Place, path: str, within: frozenset[str] = frozenset()) -> Iterator[Entry]:
    """All files below a folder; links on a local disk are followed, but not in circles."""
    for name, found in _children(place, path):
        if found["type"] == "file":
            yield name, found
            continue
        target = os.path.realpath(name) if found.get("islink") else ""
        if not target:
            yield from _walk(place, name, within)
        elif target not in within | _above(name):
            yield from _walk(place, name, within | {target})


def _local_children(path: str) -> Iterator[Entry]:
    try:
        names = sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        full = os.path.join(path, name)
        try:
            status = os.stat(full)
        except OSError:
            if os.path.islink(full):
                continue  # to nowhere
            raise
        if stat.S_ISDIR(status.st_mode):
            yield full, {"type": "directory", "islink": os.path.islink(full)}
        elif stat.S_ISREG(status.st_mode):
            yield full, {"type": "file", "size": status.st_size, "mtime": status.st_mtime_ns}


def _above(path: str) -> set[str]:
    """The real folders that hold a path, up to the root."""
    folder = os.path.realpath(os.path.dirname(path))
    parts = folder.split(os.sep)
    return {os.sep.join(parts[: i + 1]) or os.sep for i in range(len(parts))}


def _s3_pages(place: Place, path: str, delimiter: str = "") -> Iterator[tuple[list[str], list[Entry], bool]]:
    """(prefixes, files, whether it is the last) of each page of a listing below a path."""
    bucket, _, key = path.partition("/")
    prefix = f"{key.rstrip('/')}/" if key else ""
    request: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix, "Delimiter": delimiter, "MaxKeys": PAGE}
    while True:
        page = place.fs.call_s3("list_objects_v2", **request)
        files = [
            (f"{bucket}/{o['Key']}", {"type": "file", "size": o["Size"], "ETag": o.get("ETag")})
            for o in page.get("Contents", ())
            if not o["Key"].endswith("/")  # what some tools write for a folder
        ]
        prefixes = [f"{bucket}/{p['Prefix']}".rstrip("/") for p in page.get("CommonPrefixes", ())]
        yield prefixes, files, not page.get("IsTruncated")
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]


def _s3_below(place: Place, path: str) -> Iterator[Entry]:
    """All objects below a prefix, several of its prefixes listed at once."""
    prefixes, flat = [path], list[str]()
    for _ in range(3):  # levels to go down to find prefixes enough to share out
        if not 0 < len(prefixes) + len(flat) < LISTERS:
            break
        deeper: list[str] = []
        for prefix in prefixes:
            found, files, whole = next(_s3_pages(place, prefix, "/"))
            if whole:
                deeper += found
                yield from files
            else:  # of many children: to go through them one by one could be a request an image
                flat.append(prefix)
        prefixes = deeper
    for page in _interleaved([partial(_s3_files, place, prefix) for prefix in flat + prefixes]):
        yield from page


def _s3_files(place: Place, path: str) -> Iterator[list[Entry]]:
    return (files for _, files, _ in _s3_pages(place, path))


def _interleaved(sources: Sequence[Callable[[], Iterable[list[Entry]]]]) -> Iterator[list[Entry]]:
    """The pages of all sources, a number of them read at once; few pages wait."""
    pages: queue.Queue[list[Entry] | Exception | None] = queue.Queue(2 * LISTERS)
    stop = threading.Event()

    def run(source: Callable[[], Iterable[list[Entry]]]) -> None:
        try:
            for page in () if stop.is_set() else source():
                pages.put(page)
                if stop.is_set():
                    return
            pages.put(None)
        except Exception as error:  # every store has errors of its own
            pages.put(error)

    with ThreadPoolExecutor(LISTERS) as pool:
        waiting = [pool.submit(run, source) for source in sources]
        left = len(waiting)
        try:
            while left:
                page = pages.get()
                if isinstance(page, Exception):
                    raise page
                left -= page is None
                yield page or []
        finally:
            stop.set()
            for future in waiting:
                future.cancel()
            while any(not f.done() for f in waiting):  # a thread may wait for room
                try:
                    pages.get(timeout=0.05)
                except queue.Empty:
                    continue


def braces(path: str) -> list[str]:
    """`shard-{000..002}.tar` and `{a,b}/x` written out, as a shell does; zero padding is kept.

    Raises:
        InputError: they do not come in pairs, or are inside one another.
    """
    parts: list[list[str]] = []
    found = re.findall(r"\{[^{}]*\}", path)
    for text, braced in re.findall(r"([^{]+)|\{([^{}]*)\}", path):
        if text:
            parts.append([text])
        elif match := re.fullmatch(r"(\d+)\.\.(\d+)", braced):
            first, last = int(match[1]), int(match[2])
            width = len(match[1]) if match[1].startswith("0") else 0
            step = 1 if last >= first else -1
            parts.append([f"{n:0{width}d}" for n in range(first, last + step, step)])
        else:
            parts.append(braced.split(","))
    if path.count("{") != len(found) or path.count("}") != len(found):
        raise InputError(f"{path}: braces must come in pairs and not inside one another")
    return ["".join(p) for p in product(*parts)] or [path]
