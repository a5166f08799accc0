"""Tiles of large images: their placement, and that merged tiles give the instances of the whole image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco

from jobs.sample import DATA
from model import Detections, MaskRCNN, load_model, rle
from model.masks.tile_grid import Tiling
from model.masks.tile_merging import Instances, merge_tiles
from model.masks.tiles import predict_tiles
from pipeline.analysis.coco_ap import average_precision


@given(st.integers(1, 120), st.integers(1, 120), st.integers(1, 90), st.integers(0, 89))
def test_every_pixel_is_in_a_tile_and_borders_overlap(height: int, width: int, size: int, overlap: int) -> None:
    overlap = min(overlap, size - 1)
    tiling = Tiling(size, overlap)
    tiles = tiling.grid(height, width)
    seen = np.zeros((height, width), int)
    for left, top, right, bottom in tiles:
        assert (right - left, bottom - top) == (min(size, width), min(size, height))
        seen[top:bottom, left:right] += 1
    assert seen.min() >= 1
    assert tiling.needed(height, width) == (len(tiles) > 1)
    # Any square as large as the overlap lies whole in some tile.
    side = min(overlap, height, width)
    for x, y in ((0, 0), (width - side, height - side), ((width - side) // 2, (height - side) // 3)):
        assert any(t[0] <= x and t[1] <= y and x + side <= t[2] and y + side <= t[3] for t in tiles)


def test_an_overlap_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="256"):
        Tiling(256, 256)


HEIGHT, WIDTH = 90, 120


def ellipse(x: float, y: float, a: float, b: float) -> np.ndarray:
    yy, xx = np.mgrid[:HEIGHT, :WIDTH]
    return (((xx - x) / a) ** 2 + ((yy - y) / b) ** 2 <= 1).astype(np.uint8)


def views(masks: list[np.ndarray], scores: list[float], labels: list[int], tiling: Tiling) -> tuple[Any, ...]:
    """Returns what a perfect network would find in every tile, as arguments of `merge_tiles`."""
    tiles = tiling.grid(HEIGHT, WIDTH)
    boxes, seen_scores, seen_labels, rles, tile_of = [], [], [], [], []
    for t, (left, top, right, bottom) in enumerate(tiles):
        for mask, score, label in zip(masks, scores, labels, strict=True):
            part = np.zeros_like(mask)
            part[top:bottom, left:right] = mask[top:bottom, left:right]
            if part.sum() < 4:
                continue
            rows, columns = np.nonzero(part.any(1))[0], np.nonzero(part.any(0))[0]
            boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            seen_scores.append(score - 0.001 * t)
            seen_labels.append(label)
            rles.append(coco.encode(np.asfortranarray(part)))
            tile_of.append(t)
    found = Instances(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(seen_scores, np.float32),
        np.array(seen_labels, np.int64),
        [r["counts"].decode() for r in rles],
        [int(coco.area(r)) for r in rles],
    )
    return found, np.array(tile_of, np.int64), tiles


def dense(found: Instances) -> list[np.ndarray]:
    return [coco.decode({"size": [HEIGHT, WIDTH], "counts": c}) for c in found.counts]


@st.composite
def scenes(draw: st.DrawFn) -> tuple[list[np.ndarray], list[float], list[int]]:
    """Ellipses of two classes that do not touch one another, some far larger than the overlap."""
    masks: list[np.ndarray] = []
    for _ in range(draw(st.integers(1, 6))):
        a, b = draw(st.floats(4, 45)), draw(st.floats(4, 40))
        mask = ellipse(draw(st.floats(0, WIDTH)), draw(st.floats(0, HEIGHT)), a, b)
        if mask.sum() > 40 and not any((mask & other).any() for other in masks):
            masks.append(mask)
    return masks, [draw(st.floats(0.3, 1)) for _ in masks], [draw(st.integers(1, 2)) for _ in masks]


@pytest.mark.slow
@given(scenes(), st.sampled_from([(40, 16), (50, 20), (64, 24)]))
@settings(deadline=None, max_examples=80)
def test_objects_that_were_cut_are_whole_again(
    scene: tuple[list[np.ndarray], list[float], list[int]], tile: tuple[int, int]
) -> None:
    """Objects that do not touch come back exactly once, with all their pixels."""
    found, tile_of, tiles = views(*scene, Tiling(*tile))
    joined = merge_tiles(found, tile_of, tiles, HEIGHT, WIDTH)
    masks = dense(joined)
    iou = np.array([[(m & own).sum() / (m | own).sum() for own in scene[0]] for m in masks]).reshape(
        len(masks), len(scene[0])
    )
    assert len(masks) == len(scene[0]), "an object is lost, or there in parts or twice"
    assert ((iou > 0.9).sum(axis=0) == 1).all()
    for found_label, row in zip(joined.labels.tolist(), iou, strict=True):
        assert found_label == scene[2][row.argmax()]
    assert joined.areas == [int(m.sum()) for m in masks]
    assert (np.diff(joined.scores) <= 0).all()


@pytest.mark.slow
@given(scenes(), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=40)
def test_the_order_of_tiles_does_not_matter(scene: tuple[Any, ...], random: Any) -> None:
    found, tile_of, tiles = views(*scene, Tiling(48, 16))
    expected = merge_tiles(found, tile_of, tiles, HEIGHT, WIDTH)
    order = list(range(len(tile_of)))
    random.shuffle(order)
    shuffled = Instances(
        found.boxes[order],
        found.scores[order],
        found.labels[order],
        [found.counts[i] for i in order],
        [found.areas[i] for i in order],
    )
    joined = merge_tiles(shuffled, tile_of[order], tiles, HEIGHT, WIDTH)
    assert joined.counts == expected.counts
    np.testing.assert_array_equal(joined.boxes, expected.boxes)
    np.testing.assert_array_equal(joined.scores, expected.scores)


def test_neighbours_that_touch_stay_two() -> None:
    """Two objects of one class side by side across a tile border, and a third inside one of them."""
    left, right = ellipse(45, 45, 15, 15), ellipse(76, 45, 15, 15)
    inner = ellipse(45, 45, 4, 4)
    found, tile_of, tiles = views([left, right, inner], [0.9, 0.8, 0.7], [1, 1, 1], Tiling(64, 24))
    joined = dense(merge_tiles(found, tile_of, tiles, HEIGHT, WIDTH))
    assert [m.sum() for m in joined] == [m.sum() for m in (left, right, inner)]


def test_classes_are_kept_apart() -> None:
    mask = ellipse(60, 45, 20, 12)
    found, tile_of, tiles = views([mask, mask], [0.9, 0.8], [1, 2], Tiling(64, 24))
    joined = merge_tiles(found, tile_of, tiles, HEIGHT, WIDTH)
    assert joined.labels.tolist() == [1, 2]
    assert all(np.array_equal(m, mask) for m in dense(joined))


def test_nothing_found() -> None:
    found = Instances(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), [], [])
    joined = merge_tiles(found, np.zeros(0, np.int64), Tiling(64, 16).grid(HEIGHT, WIDTH), HEIGHT, WIDTH)
    assert len(joined.counts) == len(joined.boxes) == 0


def test_boxes_are_in_pixels_of_the_image() -> None:
    image = np.zeros((100, 130, 3), np.uint8)
    image[70:80, 110:125] = 255

    def brightest(tiles: list[np.ndarray]) -> list[Detections]:
        found = []
        for tile in tiles:
            rows, columns = np.nonzero(tile[..., 0])
            boxes = [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]] if len(rows) else []
            n = len(boxes)
            box = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
            found.append(Detections(box, torch.ones(n), torch.ones(n).long(), torch.ones(n, 28, 28)))
        return found

    tiles = Tiling(50, 20).grid(100, 130)
    found, tile_of = predict_tiles(brightest, lambda t: image[t[1] : t[3], t[0] : t[2]], tiles, 4)
    assert len(found) > 1
    for box, t in zip(found.boxes.tolist(), tile_of.tolist(), strict=True):
        left, top, right, bottom = tiles[t]
        assert box == [max(110, left), max(70, top), min(125, right), min(80, bottom)]


GAP = 16


@pytest.mark.slow
def test_a_mosaic_of_nuclei_is_as_good_as_its_pictures() -> None:
    """Tiles of a picture's size give a mask AP within a point of segmenting the pictures one by one."""
    reference, ap = mosaic_ap((256, 64), pictures=4, columns=2)
    assert reference > 0.4
    assert ap > reference - 0.01


def mosaic_ap(*tilings: tuple[int, int], pictures: int = 20, columns: int = 5) -> list[float]:
    """Returns the mask AP of some pictures one by one, then of their mosaic for each tile size and overlap.

    The pictures are spaced apart, like fields of view. If they touched, nuclei cut by a picture's edge would meet
    other nuclei, and the network would lose a point of AP even without tiles.
    """
    dataset = json.loads(next(Path(DATA).glob("*.json")).read_text())
    records = [r for r in dataset["images"] if (r["height"], r["width"]) == (256, 256)][:pictures]
    places = [((256 + GAP) * (i % columns), (256 + GAP) * (i // columns)) for i in range(len(records))]
    width, height = (max(p[k] for p in places) + 256 for k in (0, 1))
    image = np.zeros((height, width, 3), np.uint8)
    network, one_by_one, truth = load_model("nuclei", device="cpu"), [], []
    for record, (x, y) in zip(records, places, strict=True):
        picture = np.array(Image.open(DATA / "images" / record["file_name"]).convert("RGB"))
        image[y : y + 256, x : x + 256] = picture
        found = network.predict([picture])[0]
        rles = [moved(c, x, y, height, width) for c in rle.encode(found.masks, found.boxes, 256, 256)]
        one_by_one += results(rles, found.scores.tolist())
        own = (a for a in dataset["annotations"] if a["image_id"] == record["id"])
        truth += [moved(a["segmentation"]["counts"], x, y, height, width) for a in own]

    about = {"images": [{"id": 1, "height": height, "width": width}], "categories": [{"id": 1, "name": "nucleus"}]}
    about["annotations"] = [
        {"id": i, "image_id": 1, "category_id": 1, "segmentation": s} for i, s in enumerate(truth, start=1)
    ]
    seen = [one_by_one, *(in_tiles(network, image, Tiling(*tiling)) for tiling in tilings)]
    return [average_precision(about, r, 9000)["segm"]["AP"] for r in seen]


def in_tiles(network: MaskRCNN, image: np.ndarray, tiling: Tiling) -> list[dict[str, Any]]:
    """COCO results of one large image."""
    height, width = image.shape[:2]
    tiles = tiling.grid(height, width)
    found, tile_of = predict_tiles(network.predict, lambda t: image[t[1] : t[3], t[0] : t[2]], tiles)
    counts, areas = rle.encode_with_area(found.masks, found.boxes, height, width)
    seen = Instances(found.boxes.numpy(), found.scores.numpy(), found.labels.numpy(), counts, areas)
    joined = merge_tiles(seen, tile_of.numpy(), tiles, height, width)
    return results([{"size": [height, width], "counts": c} for c in joined.counts], joined.scores.tolist())


def moved(counts: str, x: int, y: int, height: int, width: int) -> dict[str, Any]:
    """The RLE of a mask of a 256x256 picture at its place in the mosaic."""
    whole = np.zeros((height, width), np.uint8, order="F")
    whole[y : y + 256, x : x + 256] = coco.decode({"size": [256, 256], "counts": counts})
    return coco.encode(whole)


def results(rles: list[dict[str, Any]], scores: list[float]) -> list[dict[str, Any]]:
    """COCO results of one image."""
    return [
        {"image_id": 1, "category_id": 1, "score": s, "bbox": coco.toBbox(r).tolist(), "segmentation": r}
        for r, s in zip(rles, scores, strict=True)
    ]
