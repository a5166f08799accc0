"""Kinds of objects that hold images, by the ends of their names."""

from __future__ import annotations

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")
SHARD_SUFFIXES = {".tar": "tar", ".tgz": "tgz", ".tar.gz": "tgz", ".parquet": "parquet"}
STREAMED_KINDS = ("tgz", "parquet")  # kinds of which a part is read from end to end
ASSUMED_IMAGE_BYTES = 512 << 10  # bytes of an image whose size nobody asked for
INPUT_SUFFIXES = " ".join((*IMAGE_SUFFIXES, *SHARD_SUFFIXES))


def input_kind(name: str) -> str | None:
    """ "image", "tar", "tgz" or "parquet"; None for anything else."""
    lower = name.lower()
    if lower.endswith(IMAGE_SUFFIXES):
        return "image"
    return next((kind for suffix, kind in SHARD_SUFFIXES.items() if lower.endswith(suffix)), None)
