"""A picture of results: images in a grid, each instance filled and outlined in a colour of its own."""

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
from pipeline.images.decoder import open_image, to_rgb
from pipeline.storage import Place

TILE, GAP = 320, 8  # pixels
CANDIDATES = 64  # images among which to choose
MAX_PIXELS = 100_000_000
BACKGROUND = (18, 18, 22)
GOLDEN = 0.618034  # steps of the hue that never come near one another


@dataclass(frozen=True)
class Result:
    """One segmented image."""

    image_id: int
    height: int
    width: int
    rle: list[str]


def draw(output: Place, to: Path, columns: int = 4, rows: int = 3, min_score: float = 0.5) -> int:
    """Writes a PNG of some results, as unlike as possible, from few instances to many.

    Args:
        to: the file; its folder is made.
        min_score: instances below it are not drawn.

    Raises:
        InputError: there are no results, or none with an instance.

    Returns:
        Instances drawn.
    """
    results = _candidates(output, min_score)
    if not results:
        raise InputError(f"{output.url}: no instance scores {min_score} or more, so there is nothing to draw")
    images = [to_rgb(open_image(data, MAX_PIXELS)) for data in image_bytes(output, [r.image_id for r in results])]
    chosen = _varied(results, images, columns * rows)
    tiles = [tile(images[i], results[i]) for i in chosen]
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * (TILE + GAP) + GAP, rows * (TILE + GAP) + GAP), BACKGROUND)
    for i, image in enumerate(tiles):
        sheet.paste(image, (GAP + i % columns * (TILE + GAP), GAP + i // columns * (TILE + GAP)))
    to.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(to)
    return sum(len(results[i].rle) for i in chosen)


def tile(pixels: np.ndarray, result: Result) -> Image.Image:
    """One image, uint8 (H, W, 3), with its instances drawn, its centre cropped to a square tile."""
    height, width = result.height, result.width
    scale = TILE / min(height, width)
    size = (max(TILE, round(width * scale)), max(TILE, round(height * scale)))
    canvas = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)).astype(np.float32)
    for i, counts in enumerate(result.rle):
        mask = coco_mask.decode({"size": [height, width], "counts": counts})
        paint(canvas, np.asarray(Image.fromarray(mask * 255).resize(size, Image.Resampling.BILINEAR)) > 127, colour(i))
    left, top = (size[0] - TILE) // 2, (size[1] - TILE) // 2
    return Image.fromarray(canvas[top : top + TILE, left : left + TILE].round().astype(np.uint8))


def paint(canvas: np.ndarray, mask: np.ndarray, rgb: Sequence[float]) -> None:
    """Fills a bool (H, W) mask lightly and draws its border, on a float32 (H, W, 3) canvas, in place."""
    inside = mask.copy()
    for _ in range(2):  # the border is two pixels wide
        fenced = np.pad(inside, 1, constant_values=False)
        inside = inside & fenced[:-2, 1:-1] & fenced[2:, 1:-1] & fenced[1:-1, :-2] & fenced[1:-1, 2:]
    canvas[inside] = 0.72 * canvas[inside] + 0.28 * np.asarray(rgb, np.float32)
    canvas[mask & ~inside] = rgb


def colour(i: int) -> tuple[float, ...]:
    """The i-th of endlessly many bright colours, 0..255."""
    return tuple(255 * c for c in colorsys.hsv_to_rgb(i * GOLDEN % 1, 0.75, 1.0))


def _varied(results: Sequence[Result], images: Sequence[np.ndarray], count: int) -> list[int]:
    """Indices of results as unlike as possible in colour and number of instances, few instances first.

    Farthest-point sampling: each choice is the one farthest from all that were chosen before it.
    """
    features = np.array(
        [[np.log1p(len(r.rle)) / 2, *(p.mean((0, 1)) / 85)] for r, p in zip(results, images, strict=True)]
    )
    chosen = [int(np.argmax([len(r.rle) for r in results]))]
    while len(chosen) < min(count, len(results)):
        distance = np.linalg.norm(features[:, None] - features[chosen], axis=2).min(axis=1)
        chosen.append(int(distance.argmax()))
    return sorted(chosen, key=lambda i: len(results[i].rle))


def _candidates(output: Place, min_score: float) -> list[Result]:
    """Up to `CANDIDATES` images with instances, the same ones every time."""
    query = """
        select i.image_id, any_value(i.height), any_value(i.width), list(n.rle order by n.score desc)
        from images i join instances n using (image_id) where n.score >= ?
        group by i.image_id order by i.image_id limit ?
    """
    return [Result(*row) for row in connect(output).execute(query, [min_score, CANDIDATES]).fetchall()]
