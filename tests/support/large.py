"""Photographs whose pixels together take more memory than a small object store has."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

STORE = 80_000_000  # bytes of such a store; Ray's least is 75 MB
WIDTH, HEIGHT = 667, 400
PIXEL_BYTES = WIDTH * HEIGHT * 3
# Decode passes such images on as they are; few proposals, so that the network is fast on them.
OPTIONS = (
    *("--set", f"min_size={HEIGHT}", "--set", f"max_size={WIDTH}"),
    *("--set", "rpn_pre_nms=50", "--set", "rpn_post_nms=50", "--set", "max_detections=10"),
)


def large_photos(photos: Path, folder: Path, count: int) -> Path:
    """Fills a folder with so many images of WIDTH x HEIGHT pixels."""
    folder.mkdir()
    sources = sorted(photos.glob("*.jpg"))[:count]
    for i, source in enumerate(sources):
        Image.open(source).resize((WIDTH, HEIGHT)).save(folder / f"{i:03d}.jpg")
    for i in range(len(sources), count):
        (folder / f"{i:03d}.jpg").hardlink_to(folder / f"{i % len(sources):03d}.jpg")
    return folder
