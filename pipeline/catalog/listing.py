"""Lists files in any store as a stream: the names under a prefix are never all in memory.

S3 is listed page by page (`pipeline.catalog.s3_listing`), a local folder by name only, and any other store folder by
folder.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import stat
from collections.abc import Iterator
from typing import Any

from fsspec.utils import glob_translate

from pipeline.catalog import s3_listing
from pipeline.catalog.s3_listing import Entry
from pipeline.storage import Place, local_info, store_kind


def entry_info(place: Place, path: str) -> dict[str, Any] | None:
    """Returns type, size, and etag or time of change of a path; None if it does not exist."""
    try:
        if place.protocol == "file":
            return {"type": "directory"} if os.path.isdir(path) else local_info(path)
        return place.fs.info(path)
    except FileNotFoundError:
        return None


def list_files(place: Place, path: str) -> Iterator[Entry]:
    """Lists every file below a folder or prefix."""
    return s3_listing.list_all(place, path) if store_kind(place.protocol) == "s3" else _walk(place, path)


def list_glob(place: Place, pattern: str) -> Iterator[Entry]:
    """Lists every file that matches a glob, and every file below a folder that matches. `**` matches many levels."""
    segments = pattern.split("/")
    first_magic = next(i for i, segment in enumerate(segments) if glob.has_magic(segment))
    return _glob(place, "/".join(segments[:first_magic]), segments[first_magic:])


def _glob(place: Place, base: str, segments: list[str]) -> Iterator[Entry]:
    """Matches the segments of a glob below a folder, one level per call."""
    head, rest = segments[0], segments[1:]
    if "**" in head:
        wanted = re.compile(glob_translate("/".join([base, *segments])))
        level = base.count("/") + 1
        for path, info in list_files(place, base):
            parts = path.split("/")
            if any(wanted.match("/".join(parts[:n])) for n in range(len(parts), level, -1)):
                yield path, info
        return
    if not glob.has_magic(head):
        path = f"{base}/{head}"
        if rest:
            yield from _glob(place, path, rest)
        else:
            yield from _file_or_below(place, path)
        return
    match = re.compile(fnmatch.translate(head)).match
    for path, info in _list_children(place, base):
        if not match(path.rsplit("/", 1)[-1]):
            continue
        if info["type"] == "directory":
            yield from _glob(place, path, rest) if rest else list_files(place, path)
        elif not rest:
            yield path, info


def _file_or_below(place: Place, path: str) -> Iterator[Entry]:
    """Lists a file, or the files below a folder; nothing if the path does not exist."""
    info = entry_info(place, path)
    if info is not None:
        yield from [(path, info)] if info["type"] == "file" else list_files(place, path)


def _list_children(place: Place, path: str) -> Iterator[Entry]:
    """Lists what is directly in a folder or prefix; nothing if it does not exist."""
    if store_kind(place.protocol) == "s3":
        yield from s3_listing.list_children(place, path)
        return
    if place.protocol == "file":
        yield from _list_local_children(path)
        return
    try:
        children = place.fs.ls(path, detail=True)
    except FileNotFoundError:
        return
    for info in sorted(children, key=lambda i: str(i["name"])):
        if str(info["name"]).rstrip("/") != path.rstrip("/"):
            yield str(info["name"]).rstrip("/"), info


def _list_local_children(path: str) -> Iterator[Entry]:
    try:
        names = sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        child = os.path.join(path, name)
        try:
            status = os.stat(child)
        except OSError:
            if os.path.islink(child):
                continue  # a dangling link
            raise
        if stat.S_ISDIR(status.st_mode):
            yield child, {"type": "directory", "islink": os.path.islink(child)}
        elif stat.S_ISREG(status.st_mode):
            yield child, {"type": "file", "size": status.st_size, "mtime": status.st_mtime_ns}


def _walk(place: Place, path: str, followed: frozenset[str] = frozenset()) -> Iterator[Entry]:
    """Lists all files below a folder. It follows links on a local disk, but not in circles.

    Args:
        followed: real paths of the linked folders that this one is in.
    """
    for name, info in _list_children(place, path):
        if info["type"] == "file":
            yield name, info
            continue
        target = os.path.realpath(name) if info.get("islink") else ""
        if not target:
            yield from _walk(place, name, followed)
        elif target not in followed | _parents(name):
            yield from _walk(place, name, followed | {target})


def _parents(path: str) -> set[str]:
    """The real paths of all folders that hold a path, up to the root."""
    folder = os.path.realpath(os.path.dirname(path))
    parts = folder.split(os.sep)
    return {os.sep.join(parts[: i + 1]) or os.sep for i in range(len(parts))}
