"""Size and version of an object."""

from __future__ import annotations

import os
from typing import Any


def local_info(path: str) -> dict[str, Any]:
    """Size and time of change of a local file, of a link's target."""
    stat = os.stat(path)
    return {"type": "file", "size": stat.st_size, "mtime": stat.st_mtime_ns}


def version_of(info: dict[str, Any]) -> str:
    """Changes when the content does: the store's etag where it has one, else time of change and size."""
    if etag := info.get("ETag") or info.get("etag"):
        return str(etag).strip('"')
    changed = next((info[k] for k in ("mtime", "LastModified", "last_modified", "created") if info.get(k)), "")
    return f"{changed}-{info.get('size')}"
