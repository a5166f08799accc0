"""What a user names as INPUT, taken apart into containers: objects that hold one image or many.

A container is read by the reader of its kind. Kinds are a table; a new one (Parquet, manifests) is a
new row here and a new reader in `pipeline.catalog`.
"""

from __future__ import annotations

import fnmatch
import glob as globbing
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from pipeline.errors import InputError
from pipeline.schema import printable
from pipeline.storage import Place, explain

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")
TAR_SUFFIXES = (".tar",)
KINDS = {**dict.fromkeys(IMAGE_SUFFIXES, "image"), **dict.fromkeys(TAR_SUFFIXES, "tar")}


@dataclass(frozen=True)
class Container:
    """An object in a store that holds images.

    Attributes:
        url: its address.
        kind: "image" (the object is the image) or "tar".
        size: bytes.
        version: changes when the content does: etag where the store has one, else the time it was changed.
    """

    url: str
    kind: str
    size: int
    version: str


def kind_of(name: str) -> str | None:
    """The kind of container a name's suffix says; None for anything else."""
    match = re.search(r"\.[A-Za-z]+$", name)
    return KINDS.get(match[0].lower()) if match else None


def containers(inputs: Sequence[Place], output: Place, pattern: str | None = None) -> list[Container]:
    """Every container under the inputs, each once, in order of address.

    Args:
        inputs: files, prefixes, or globs with `*`, `?`, `[..]` and braces (`{000..127}`, `{a,b}`).
        output: left out where it lies below an input.
        pattern: only keys below a prefix that match this glob, such as `*_w1.tif`.

    Raises:
        InputError: an input does not exist, cannot be read, or holds no images.
    """
    found: dict[str, Container] = {}
    for place in inputs:
        try:
            here = list(_below(place, output, pattern))
        except InputError:
            raise
        except Exception as error:  # every store has errors of its own
            raise explain(place.url, error) from None
        if not here:
            suffixes = " ".join((*IMAGE_SUFFIXES, *TAR_SUFFIXES))
            matching = f" that match {pattern!r}" if pattern else ""
            raise InputError(f"{place.url}: no images or tar shards here{matching}; looked for {suffixes}")
        found.update((c.url, c) for c in here)
    return sorted(found.values(), key=lambda c: c.url)


def _below(place: Place, output: Place, pattern: str | None) -> Iterator[Container]:
    """The containers one input names."""
    wanted = re.compile(fnmatch.translate(pattern)) if pattern else None
    own = output.url.rstrip("/") + "/"
    for path, info in _listing(place):
        url = printable(place.url_of(path))
        kind = kind_of(path)
        if info["type"] != "file" or kind is None or url.startswith(own):
            continue
        if wanted and not wanted.fullmatch(path.rsplit("/", 1)[-1]):
            continue
        version = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("LastModified") or info["size"]
        yield Container(url, kind, int(info["size"] or 0), str(version).strip('"'))


def _listing(place: Place) -> Iterator[tuple[str, dict]]:
    """(path, info) of every file that an input names, straight from the store."""
    fs = place.fs
    fs.invalidate_cache()
    special = globbing.has_magic(place.path) or "{" in place.path
    # A name that exists as it stands is meant as it stands, whatever brackets it has.
    for path in _braces(place.path) if special and not fs.exists(place.path) else [place.path]:
        if globbing.has_magic(path) and not fs.exists(path):
            matches = fs.glob(path, detail=True)
            if not matches:
                raise InputError(f"{place.url}: nothing matches this pattern")
            for match, info in sorted(matches.items()):
                yield from [(match, info)] if info["type"] == "file" else _files(place, match)
            continue
        files = list(_files(place, path))
        if not files and not fs.exists(path):
            raise InputError(f"{place.url}: no such file, folder or prefix: check the spelling")
        yield from files


def _files(place: Place, path: str, within: tuple[str, ...] = ()) -> Iterator[tuple[str, dict]]:
    """All files at or below a path, in order; links on a local disk are followed, but not in circles."""
    for name, info in sorted(place.fs.find(path, detail=True).items()):
        if not info.get("islink"):
            yield name, info
            continue
        target = os.path.realpath(name)
        if os.path.isfile(target):
            stat = os.stat(target)
            yield name, {"type": "file", "size": stat.st_size, "mtime": stat.st_mtime}
        elif os.path.isdir(target) and target not in (*within, *_above(name)):
            for below, inner in _files(place, target, (*within, target)):
                yield name + below[len(target) :], inner


def _above(path: str) -> list[str]:
    """The real folders that hold a path, up to the root."""
    folder = os.path.realpath(os.path.dirname(path))
    parts = folder.split(os.sep)
    return [os.sep.join(parts[:i]) or os.sep for i in range(1, len(parts) + 1)]


def _braces(path: str) -> list[str]:
    """`shard-{000..002}.tar` and `{a,b}/x` written out, as a shell does; zero padding is kept."""
    parts: list[list[str]] = []
    braces = re.findall(r"\{[^{}]*\}", path)
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
    if path.count("{") != len(braces) or path.count("}") != len(braces):
        raise InputError(f"{path}: braces must come in pairs and not inside one another")
    return ["".join(p) for p in product(*parts)] or [path]
