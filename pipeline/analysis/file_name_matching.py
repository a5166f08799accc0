"""Matches the file names of annotations to the images of an output.

Annotations name files relative to a folder that the output does not know, and the images may be in a tar shard. So
paths are compared from their end.
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
    parts: tuple[str, ...]  # from the end: the base name first


def match_file_names(uris: Sequence[str], names: Sequence[str]) -> dict[int, int]:
    """Finds the image of each annotated file name.

    They are matched by base name; in a tar shard by the base name of the member. If several images have the same base
    name, the longest common end of the paths decides.

    Args:
        uris: addresses of the images.
        names: `file_name` of the annotated images; `\\` separates folders too.

    Returns:
        Index in `uris` by index in `names`, for the names that have an image.

    Raises:
        InputError: a name fits two images equally well, or an image two names.
    """
    images, annotated = defaultdict(list), defaultdict(list)
    for i, uri in enumerate(uris):
        path = _path(i, uri, re.sub(r"(\.tar|\.tgz|\.tar\.gz)#", r"\1/", uri, flags=re.IGNORECASE))
        images[path.parts[:1]].append(path)
    for i, name in enumerate(names):
        path = _path(i, name, name.replace("\\", "/"))
        annotated[path.parts[:1]].append(path)
    return {n.index: u.index for base, group in annotated.items() for n, u in _pairs(group, images.get(base, []))}


def _path(index: int, text: str, path: str) -> _Path:
    return _Path(index, text, tuple(p for p in reversed(path.split("/")) if p not in ("", ".")))


def _pairs(names: list[_Path], images: list[_Path]) -> list[tuple[_Path, _Path]]:
    """Pairs names and images that share a base name. Each occurs at most once.

    A name gets no image if another name fits its best images better. Then its image has not been segmented (yet).
    """
    if not images:
        return []
    best: list[tuple[_Path, int, list[_Path]]] = []  # of each name: longest common end, and the images that have it
    longest_by_image: dict[_Path, int] = defaultdict(int)
    for name in names:
        lengths = [_common_end(name, image) for image in images]
        longest = max(lengths)
        nearest = [image for image, length in zip(images, lengths, strict=True) if length == longest]
        best.append((name, longest, nearest))
        for image in nearest:
            longest_by_image[image] = max(longest_by_image[image], longest)
    name_of: dict[_Path, _Path] = {}
    for name, longest, nearest in best:
        candidates = [image for image in nearest if longest_by_image[image] == longest]
        if candidates and len(nearest) > 1:
            raise InputError(_ambiguous(f"{name.text} of the annotations", nearest[0], nearest[1]))
        if candidates and candidates[0] in name_of:
            image = candidates[0]
            raise InputError(_ambiguous(image.text, name_of[image], name, " of the annotations"))
        if candidates:
            name_of[candidates[0]] = name
    return [(name, image) for image, name in name_of.items()]


def _common_end(a: _Path, b: _Path) -> int:
    """Number of path components that two paths share at their ends."""
    for i, (x, y) in enumerate(zip(a.parts, b.parts, strict=False)):
        if x != y:
            return i
    return min(len(a.parts), len(b.parts))


def _ambiguous(what: str, one: _Path, other: _Path, where: str = "") -> str:
    return (
        f"{what} could be {one.text} or {other.text}{where}: "
        "give file_name with enough of its folders to tell the images apart"
    )
