"""Merges the instances that several tiles found of one object, by arithmetic on runs.

No mask of image size is ever made. An inner border of a tile is one that is not a border of the image. An instance
that ends at an inner border may be cut there. Where two tiles overlap, both have seen the same pixels. So masks, or
their parts inside the overlap, show whether two instances of one class are one object:

- A cut instance is dropped if its box lies inside another tile and does not reach that tile's inner borders. That
  tile saw the whole object.
- Two whole instances are one object if the IoU of their masks is above the threshold. The better score stays.
- A cut instance and a whole one are one object if the whole one covers more than the threshold of the cut one's
  part in the overlap. The whole one stays.
- Two cut instances are one object if the IoU of their parts is above the threshold. Their union stays.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from model.masks.tile_grid import Box

BORDER = 2.0  # pixels from an inner border within which an instance counts as cut
Rle = dict[str, Any]


@dataclass(frozen=True)
class Instances:
    """Instances of one image.

    Attributes:
        boxes: float32 (N, 4) xyxy, pixels of the image.
        scores: float32 (N,).
        labels: int64 (N,).
        counts: COCO compressed RLE of each mask.
        areas: pixels of each mask.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    counts: list[str]
    areas: list[int]


def merge_tiles(
    found: Instances, tile_of: np.ndarray, tiles: Sequence[Box], height: int, width: int, threshold: float = 0.5
) -> Instances:
    """Merges instances of the same object; the module's docstring has the rules.

    Args:
        found: the instances of all tiles.
        tile_of: int64 (N,), the tile of each instance.
        tiles: in pixels of the image.
        height: of the image, pixels.
        width: of the image, pixels.
        threshold: of IoU and coverage.
    """
    rles = [{"size": [height, width], "counts": c} for c in found.counts]
    is_cut = _is_cut(found.boxes, np.asarray(tiles)[tile_of], height, width)
    dropped = is_cut & _whole_in_another_tile(found.boxes, tile_of, tiles, height, width)
    whole, tile_of = ~is_cut, np.where(dropped, -1, tile_of)
    same_object = _same_object(found, rles, whole, tile_of, tiles, threshold)
    kept = np.flatnonzero(~dropped)
    order = kept[np.lexsort((*found.boxes[kept].T, -found.scores[kept], ~whole[kept]))]
    return _union_of_groups(found, rles, _groups(found, order.tolist(), whole, same_object))


def _groups(
    found: Instances, order: list[int], whole: np.ndarray, same_object: dict[int, list[int]]
) -> list[list[int]]:
    """Returns the instances of each object; a duplicate of a whole instance is in no group."""
    groups: dict[int, list[int]] = {}
    leader: dict[int, int] = {}  # of the group that an instance is in
    for i in order:
        leaders = {leader[j] for j in same_object[i] if j in leader}
        if any(whole[j] for j in leaders):
            continue
        chosen = min(leaders, default=i, key=lambda j: (-found.scores[j], *found.boxes[j]))
        groups.setdefault(chosen, []).append(i)
        for other in leaders - {chosen}:
            groups[chosen] += groups.pop(other)
        for member in groups[chosen]:
            leader[member] = chosen
    return list(groups.values())


def _is_cut(boxes: np.ndarray, tiles: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns bool (N,): the box ends at a border of its tile that is not a border of the image."""
    starts = (boxes[:, :2] < tiles[:, :2] + BORDER) & (tiles[:, :2] > 0)
    ends = (boxes[:, 2:] > tiles[:, 2:] - BORDER) & (tiles[:, 2:] < (width, height))
    return np.asarray((starts | ends).any(axis=1))


def _whole_in_another_tile(
    boxes: np.ndarray, tile_of: np.ndarray, tiles: Sequence[Box], height: int, width: int
) -> np.ndarray:
    """Returns bool (N,): the box lies in another tile and ends at none of its inner borders."""
    result = np.zeros(len(boxes), bool)
    for s, t in _overlapping_tiles(tiles):
        for mine, other in ((s, t), (t, s)):
            near = np.flatnonzero(tile_of == mine)
            tile = np.array(tiles[other])
            inside = (boxes[near, :2] >= tile[:2]).all(axis=1) & (boxes[near, 2:] <= tile[2:]).all(axis=1)
            result[near] |= inside & ~_is_cut(boxes[near], tile[None], height, width)
    return result


def _same_object(
    found: Instances,
    rles: list[Rle],
    whole: np.ndarray,
    tile_of: np.ndarray,
    tiles: Sequence[Box],
    threshold: float,
) -> dict[int, list[int]]:
    """Returns, for each instance, those of other tiles that are the same object."""
    same: dict[int, list[int]] = defaultdict(list)
    for i, j, overlap in _candidate_pairs(found, tile_of, tiles):
        if whole[i] and whole[j]:
            similarity = float(coco_mask.iou([rles[i]], [rles[j]], [0])[0, 0])
        else:
            window = coco_mask.frPyObjects(_xywh(overlap), *rles[i]["size"])[0]
            a, b = (coco_mask.merge([rles[k], window], intersect=True) for k in (i, j))
            common = int(coco_mask.area(coco_mask.merge([a, b], intersect=True)))
            area_a, area_b = int(coco_mask.area(a)), int(coco_mask.area(b))
            reference = area_b if whole[i] else area_a if whole[j] else area_a + area_b - common
            similarity = common / reference if reference else 0.0
        if similarity > threshold:
            same[i].append(j)
            same[j].append(i)
    return same


def _candidate_pairs(found: Instances, tile_of: np.ndarray, tiles: Sequence[Box]) -> Iterator[tuple[int, int, Box]]:
    """Yields pairs of one class from two tiles whose boxes meet inside the tiles' overlap, and that overlap."""
    members = [np.flatnonzero(tile_of == t) for t in range(len(tiles))]
    for s, t in _overlapping_tiles(tiles):
        overlap = _intersection(tiles[s], tiles[t])
        near = [m[_intersects(found.boxes[m], np.array(overlap))] for m in (members[s], members[t])]
        for i in near[0]:
            others = near[1][found.labels[near[1]] == found.labels[i]]
            for j in others[_intersects(found.boxes[others], found.boxes[i])]:
                yield int(i), int(j), overlap


def _overlapping_tiles(tiles: Sequence[Box]) -> Iterator[tuple[int, int]]:
    """Yields pairs of tiles that overlap, found through a coarse grid over the image."""
    size = max(max(t[2] - t[0], t[3] - t[1]) for t in tiles) if tiles else 1
    cells: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, (left, top, right, bottom) in enumerate(tiles):
        for x in range(left // size, (right - 1) // size + 1):
            for y in range(top // size, (bottom - 1) // size + 1):
                cells[x, y].append(i)
    pairs = {pair for inside in cells.values() for pair in combinations(inside, 2)}
    for s, t in sorted(pairs):
        left, top, right, bottom = _intersection(tiles[s], tiles[t])
        if left < right and top < bottom:
            yield s, t


def _intersection(a: Box, b: Box) -> Box:
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


def _intersects(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Returns bool (N,): which boxes share some area with `box`."""
    return np.asarray(((boxes[:, :2] < box[2:]) & (boxes[:, 2:] > box[:2])).all(axis=1))


def _xywh(box: Box) -> np.ndarray:
    return np.array([[box[0], box[1], box[2] - box[0], box[3] - box[1]]], np.float64)


def _union_of_groups(found: Instances, rles: list[Rle], groups: list[list[int]]) -> Instances:
    """Returns one instance per group, best first."""
    boxes, scores, labels, counts, areas = [], [], [], [], []
    for group in sorted(groups, key=lambda g: (-found.scores[g].max(), *found.boxes[g].min(axis=0))):
        merged = coco_mask.merge([rles[i] for i in group])
        boxes.append(np.concatenate([found.boxes[group, :2].min(axis=0), found.boxes[group, 2:].max(axis=0)]))
        scores.append(found.scores[group].max())
        labels.append(found.labels[group[0]])
        counts.append(merged["counts"].decode() if len(group) > 1 else found.counts[group[0]])
        areas.append(int(coco_mask.area(merged)))
    return Instances(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(labels, np.int64),
        counts,
        areas,
    )
