"""Size and version of an object, from the entries that fsspec filesystems list."""

from __future__ import annotations

import os
from typing import Any

CHANGED_KEYS = ("mtime", "LastModified", "last_modified", "created")  # the time of change in fsspec's filesystems


def local_info(path: str) -> dict[str, Any]:
    """Returns size and modification time of a local file, in fsspec's form. Symbolic links are followed."""
    stat = os.stat(path)
    return {"type": "file", "size": stat.st_size, "mtime": stat.st_mtime_ns}


def version_of(info: dict[str, Any]) -> str:
    """Returns a string that changes when the content does: the etag if the store has one, else time and size."""
    if etag := info.get("ETag") or info.get("etag"):
        return str(etag).strip('"')
    changed = next((info[key] for key in CHANGED_KEYS if info.get(key)), "")
    return f"{changed}-{info.get('size')}"
