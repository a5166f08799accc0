"""Images of an output and the file names of annotations: which is which.

Annotations name files relative to a folder that the output may never have seen (the images may lie in a
tar shard), so what counts is the end of the path.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import InputError


@dataclass(frozen=True)
class _Path:
    index: int
    text: str
    parts: tuple[str, ...]  # from the end: base name first


def match(uris: Sequence[str], names: Sequence[str]) -> dict[int, int]:
    """The image of each annotated file name: index in `names` to index in `uris`.

    They match by base name (of a tar member, the member's). Where several share one, the longest common
    end of the paths decides.

    Raises:
        InputError: a name could be either of two images, or an image either of two names.
    """
    images, wanted = defaultdict(list), defaultdict(list)
    for i, uri in enumerate(uris):
        path = _path(i, uri, re.sub(r"(\.tar|\.tgz|\.tar\.gz)#", r"\1/", uri, flags=re.IGNORECASE))
        images[path.parts[:1]].append(path)
    for i, name in enumerate(names):
        path = _path(i, name, name.replace("\\", "/"))
        wanted[path.parts[:1]].append(path)
    return {n.index: u.index for base, group in wanted.items() for n, u in _pairs(group, images.get(base, []))}


def _path(index: int, text: str, path: str) -> _Path:
    return _Path(index, text, tuple(p for p in reversed(path.split("/")) if p not in ("", ".")))


def _pairs(names: list[_Path], images: list[_Path]) -> list[tuple[_Path, _Path]]:
    """Names and images of one base name, each at most once.

    A name whose best images all match another name better has no image: it was not segmented (yet).
    """
    if not images:
        return []
    best: list[tuple[_Path, int, list[_Path]]] = []
    reach: dict[_Path, int] = defaultdict(int)
    for name in names:
        lengths = [_common(name, image) for image in images]
        longest = max(lengths)
        nearest = [image for image, length in zip(images, lengths, strict=True) if length == longest]
        best.append((name, longest, nearest))
        for image in nearest:
            reach[image] = max(reach[image], longest)
    owner: dict[_Path, _Path] = {}
    for name, longest, nearest in best:
        free = [image for image in nearest if reach[image] == longest]
        if free and len(nearest) > 1:
            raise InputError(_ambiguous(f"{name.text} of the annotations", nearest[0], nearest[1]))
        if free and free[0] in owner:
            raise InputError(_ambiguous(free[0].text, owner[free[0]], name, " of the annotations"))
        if free:
            owner[free[0]] = name
    return [(name, image) for image, name in owner.items()]


def _common(a: _Path, b: _Path) -> int:
    """Path components that two paths have in common at their ends."""
    for i, (x, y) in enumerate(zip(a.parts, b.parts, strict=False)):
        if x != y:
            return i
    return min(len(a.parts), len(b.parts))


def _ambiguous(what: str, one: _Path, other: _Path, where: str = "") -> str:
    return (
        f"{what} could be {one.text} or {other.text}{where}: "
        "give file_name with enough of its folders to tell the images apart"
    )
