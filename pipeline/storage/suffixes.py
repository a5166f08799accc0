"""Kinds of objects that hold images, by the ends of their names; and which column of a table is meant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")
SHARD_SUFFIXES = {".tar": "tar", ".tgz": "tgz", ".tar.gz": "tgz", ".parquet": "parquet"}
STREAMED = ("tgz", "parquet")  # kinds of which a part is read from end to end
ASSUMED = 512 << 10  # bytes of an image whose size nobody asked for
LOOKED_FOR = " ".join((*IMAGE_SUFFIXES, *SHARD_SUFFIXES))


def kind_of(name: str) -> str | None:
    """ "image", "tar", "tgz" or "parquet"; None for anything else."""
    lower = name.lower()
    if lower.endswith(IMAGE_SUFFIXES):
        return "image"
    return next((kind for suffix, kind in SHARD_SUFFIXES.items() if lower.endswith(suffix)), None)


def choose(where: str, of: str, candidates: Sequence[str], column: str | None, usual: Iterable[str]) -> str:
    """The column of a table that is meant: the one asked for, else the only one, else the only one of a usual name.

    Args:
        of: what the column should hold, for the error.

    Raises:
        InputError: it is not among the candidates, or cannot be told.
    """
    listed = ", ".join(candidates) or "none"
    if column is not None and column not in candidates:
        raise InputError(f"{where}: column {column!r} is none of {of}; there are: {listed}")
    likely = [c for c in candidates if c.lower() in set(usual)]
    for few in ([column] if column else [], candidates, likely):
        if len(few) == 1:
            return few[0]
    raise InputError(f"{where}: which column is meant, of {of}? name it with --column; there are: {listed}")
