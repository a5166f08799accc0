"""One instance of what several tiles saw of it, by arithmetic on runs: no mask of image size is ever made.

An instance that ends at an inner border of its tile may be cut there. Where two tiles overlap both have seen
the same pixels, so the parts of their masks inside the overlap say whether they are one object:

- a cut one that lies whole in another tile goes: that tile saw all of it, and has the say;
- two whole instances are one if their masks' IoU is above the threshold: the better score stays;
- a cut one is the same as a whole one that covers more than the threshold of its part: the whole one stays;
- two cut ones are one if the IoU of their parts is above the threshold: their union stays.
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
    """Instances of one image, best first.

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


def join(
    found: Instances, tile_of: np.ndarray, tiles: Sequence[Box], height: int, width: int, threshold: float = 0.5
) -> Instances:
    """Makes one instance of those that several tiles saw; see the top for the rules.

    Args:
        found: all tiles' instances.
        tile_of: int64 (N,), the tile of each.
        tiles: of the image, in its pixels.
        height: of the image.
        width: of the image.
        threshold: of IoU and coverage.
    """
    rles = [{"size": [height, width], "counts": c} for c in found.counts]
    cut = _cut(found.boxes, np.asarray(tiles)[tile_of], height, width)
    kept = np.flatnonzero(~(cut & _seen_whole(found.boxes, tile_of, tiles, height, width)))
    whole, tile_of = ~cut, np.where(np.isin(np.arange(len(cut)), kept), tile_of, -1)
    same = _same(found, rles, whole, tile_of, tiles, threshold)
    order = kept[np.lexsort((*found.boxes[kept].T, -found.scores[kept], ~whole[kept]))]
    groups: dict[int, list[int]] = {}
    leader: dict[int, int] = {}
    for i in order.tolist():
        leaders = {leader[j] for j in same[i] if j in leader}
        if any(whole[j] for j in leaders):
            continue
        chosen = min(leaders, default=i, key=lambda j: (-found.scores[j], *found.boxes[j]))
        groups.setdefault(chosen, []).append(i)
        for other in leaders - {chosen}:
            groups[chosen] += groups.pop(other)
        for member in groups[chosen]:
            leader[member] = chosen
    return _joined(found, rles, list(groups.values()))


def _cut(boxes: np.ndarray, tiles: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bool (N,): the box ends at a border of its tile that is no border of the image."""
    starts = (boxes[:, :2] < tiles[:, :2] + BORDER) & (tiles[:, :2] > 0)
    ends = (boxes[:, 2:] > tiles[:, 2:] - BORDER) & (tiles[:, 2:] < (width, height))
    return np.asarray((starts | ends).any(axis=1))


def _seen_whole(boxes: np.ndarray, tile_of: np.ndarray, tiles: Sequence[Box], height: int, width: int) -> np.ndarray:
    """Bool (N,): the box lies in another tile and ends at none of its inner borders."""
    seen = np.zeros(len(boxes), bool)
    for s, t in _neighbours(tiles):
        for mine, other in ((s, t), (t, s)):
            near = np.flatnonzero(tile_of == mine)
            tile = np.array(tiles[other])
            inside = (boxes[near, :2] >= tile[:2]).all(axis=1) & (boxes[near, 2:] <= tile[2:]).all(axis=1)
            seen[near] |= inside & ~_cut(boxes[near], tile[None], height, width)
    return seen


def _same(
    found: Instances,
    rles: list[Rle],
    whole: np.ndarray,
    tile_of: np.ndarray,
    tiles: Sequence[Box],
    threshold: float,
) -> dict[int, list[int]]:
    """For each instance those of other tiles that are the same object; see the top for the rules."""
    same: dict[int, list[int]] = defaultdict(list)
    for i, j, overlap in _candidates(found, tile_of, tiles):
        if whole[i] and whole[j]:
            alike = float(coco_mask.iou([rles[i]], [rles[j]], [0])[0, 0])
        else:
            window = coco_mask.frPyObjects(_xywh(overlap), *rles[i]["size"])[0]
            a, b = (coco_mask.merge([rles[k], window], intersect=True) for k in (i, j))
            common = int(coco_mask.area(coco_mask.merge([a, b], intersect=True)))
            area_a, area_b = int(coco_mask.area(a)), int(coco_mask.area(b))
            part = area_b if whole[i] else area_a if whole[j] else area_a + area_b - common
            alike = common / part if part else 0.0
        if alike > threshold:
            same[i].append(j)
            same[j].append(i)
    return same


def _candidates(found: Instances, tile_of: np.ndarray, tiles: Sequence[Box]) -> Iterator[tuple[int, int, Box]]:
    """Pairs of one class from two tiles whose boxes meet inside the tiles' overlap; never all pairs."""
    members = [np.flatnonzero(tile_of == t) for t in range(len(tiles))]
    for s, t in _neighbours(tiles):
        overlap = _overlap(tiles[s], tiles[t])
        near = [m[_meets(found.boxes[m], np.array(overlap))] for m in (members[s], members[t])]
        for i in near[0]:
            others = near[1][found.labels[near[1]] == found.labels[i]]
            for j in others[_meets(found.boxes[others], found.boxes[i])]:
                yield int(i), int(j), overlap


def _neighbours(tiles: Sequence[Box]) -> Iterator[tuple[int, int]]:
    """Pairs of tiles that overlap, found through a coarse grid over the image."""
    size = max(max(t[2] - t[0], t[3] - t[1]) for t in tiles) if tiles else 1
    cells: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, (left, top, right, bottom) in enumerate(tiles):
        for x in range(left // size, (right - 1) // size + 1):
            for y in range(top // size, (bottom - 1) // size + 1):
                cells[x, y].append(i)
    pairs = {pair for inside in cells.values() for pair in combinations(inside, 2)}
    for s, t in sorted(pairs):
        left, top, right, bottom = _overlap(tiles[s], tiles[t])
        if left < right and top < bottom:
            yield s, t


def _overlap(a: Box, b: Box) -> Box:
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


def _meets(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Bool (N,): which boxes share some area with one."""
    return np.asarray(((boxes[:, :2] < box[2:]) & (boxes[:, 2:] > box[:2])).all(axis=1))


def _xywh(box: Box) -> np.ndarray:
    return np.array([[box[0], box[1], box[2] - box[0], box[3] - box[1]]], np.float64)


def _joined(found: Instances, rles: list[Rle], groups: list[list[int]]) -> Instances:
    """The union of each group, best first."""
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
