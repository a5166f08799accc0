"""Draws results: a grid of images in which each instance is filled and outlined in a different colour."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.analysis.original_images import image_bytes
from pipeline.analysis.sql import connect
from pipeline.errors import InputError
from pipeline.images import open_image, to_rgb
from pipeline.storage import Place

TILE, GAP = 320, 8  # pixels
CANDIDATES = 64  # images from which the drawn ones are chosen
MAX_PIXELS = 100_000_000
BACKGROUND = (18, 18, 22)
HUE_STEP = 0.618034  # the golden ratio's fraction: multiples of it spread evenly over the hues


@dataclass(frozen=True)
class SegmentedImage:
    """An image with its instances, highest score first."""

    image_id: int
    height: int
    width: int
    rle: list[str]


def draw(output: Place, to: Path, columns: int = 4, rows: int = 3, min_score: float = 0.5) -> int:
    """Writes a PNG of some results, chosen to be as different as possible, ordered by number of instances.

    Args:
        output: the output of a job.
        to: the file to write. Its folder is created.
        columns: maximum number of images in a row.
        rows: maximum number of rows.
        min_score: instances with a lower score are not drawn.

    Returns:
        The number of instances drawn.

    Raises:
        InputError: No instance has such a score.
    """
    results = _candidates(output, min_score)
    if not results:
        raise InputError(f"{output.url}: no instance scores {min_score} or more, so there is nothing to draw")
    images = [to_rgb(open_image(data, MAX_PIXELS)) for data in image_bytes(output, [r.image_id for r in results])]
    chosen = _choose(results, images, columns * rows)
    tiles = [draw_tile(images[i], results[i]) for i in chosen]
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * (TILE + GAP) + GAP, rows * (TILE + GAP) + GAP), BACKGROUND)
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (GAP + i % columns * (TILE + GAP), GAP + i // columns * (TILE + GAP)))
    to.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(to)
    return sum(len(results[i].rle) for i in chosen)


def draw_tile(pixels: np.ndarray, result: SegmentedImage) -> Image.Image:
    """Draws the instances of an image, uint8 (H, W, 3), and crops the centre to a square tile."""
    height, width = result.height, result.width
    scale = TILE / min(height, width)
    size = (max(TILE, round(width * scale)), max(TILE, round(height * scale)))
    canvas = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)).astype(np.float32)
    for i, counts in enumerate(result.rle):
        mask = Image.fromarray(coco_mask.decode({"size": [height, width], "counts": counts}) * 255)
        paint_mask(canvas, np.asarray(mask.resize(size, Image.Resampling.BILINEAR)) > 127, colour(i))
    left, top = (size[0] - TILE) // 2, (size[1] - TILE) // 2
    return Image.fromarray(canvas[top : top + TILE, left : left + TILE].round().astype(np.uint8))


def paint_mask(canvas: np.ndarray, mask: np.ndarray, rgb: Sequence[float]) -> None:
    """Fills a bool (H, W) mask lightly and draws its 2-pixel border, on a float32 (H, W, 3) canvas, in place."""
    inside = mask.copy()
    for _ in range(2):  # erodes by one pixel
        padded = np.pad(inside, 1, constant_values=False)
        inside = inside & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    canvas[inside] = 0.72 * canvas[inside] + 0.28 * np.asarray(rgb, np.float32)
    canvas[mask & ~inside] = rgb


def colour(i: int) -> tuple[float, ...]:
    """Returns the i-th of an endless series of bright colours, RGB 0..255."""
    return tuple(255 * c for c in colorsys.hsv_to_rgb(i * HUE_STEP % 1, 0.75, 1.0))


def _choose(results: Sequence[SegmentedImage], images: Sequence[np.ndarray], count: int) -> list[int]:
    """Chooses results that differ most in colour and number of instances, and returns their indices, fewest first.

    This is farthest-point sampling: each choice is the one farthest from all earlier choices.
    """
    features = np.array(
        [[np.log1p(len(r.rle)) / 2, *(p.mean((0, 1)) / 85)] for r, p in zip(results, images, strict=True)]
    )
    chosen = [int(np.argmax([len(r.rle) for r in results]))]
    while len(chosen) < min(count, len(results)):
        distance = np.linalg.norm(features[:, None] - features[chosen], axis=2).min(axis=1)
        chosen.append(int(distance.argmax()))
    return sorted(chosen, key=lambda i: len(results[i].rle))


def _candidates(output: Place, min_score: float) -> list[SegmentedImage]:
    """Returns up to `CANDIDATES` images with instances, in a fixed order."""
    query = """
        select i.image_id, any_value(i.height), any_value(i.width), list(n.rle order by n.score desc)
        from images i join instances n using (image_id) where n.score >= ?
        group by i.image_id order by i.image_id limit ?
    """
    return [SegmentedImage(*row) for row in connect(output).execute(query, [min_score, CANDIDATES]).fetchall()]
