"""Suffixes of object names: which objects hold images, and in which container.

A new image format starts with its suffix in `IMAGE_SUFFIXES`, a new input container with its suffix in
`SHARD_SUFFIXES`.
"""

from __future__ import annotations

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")
SHARD_SUFFIXES = {".tar": "tar", ".tgz": "tgz", ".tar.gz": "tgz", ".parquet": "parquet"}  # suffix: kind
STREAMED_KINDS = ("tgz", "parquet")  # kinds that are read from start to end; a Parquet file by row group
INPUT_SUFFIXES = " ".join((*IMAGE_SUFFIXES, *SHARD_SUFFIXES))  # for error messages
ASSUMED_IMAGE_BYTES = 512 << 10  # the size that sizing assumes for an image whose size was not listed


def input_kind(name: str) -> str | None:
    """Returns "image", "tar", "tgz" or "parquet" by the suffix of a name; None for any other suffix."""
    lower = name.lower()
    if lower.endswith(IMAGE_SUFFIXES):
        return "image"
    return next((kind for suffix, kind in SHARD_SUFFIXES.items() if lower.endswith(suffix)), None)
