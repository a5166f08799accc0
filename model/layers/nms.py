"""Non-maximum suppression over the boxes of several images at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from model.layers.torchvision_ops import torchvision_ops


@dataclass(frozen=True)
class Candidates:
    """The boxes that NMS chooses from.

    Attributes:
        boxes: float32 (N, 4) xyxy.
        scores: float32 (N,).
        image: int64 (N,), ascending: the image of each box.
        group: int64 (N,), the FPN level or the class. Boxes of different groups never suppress each other.
    """

    boxes: Tensor
    scores: Tensor
    image: Tensor
    group: Tensor

    def __getitem__(self, index: Tensor) -> Candidates:
        """Returns the boxes that a mask or an index selects."""
        return Candidates(self.boxes[index], self.scores[index], self.image[index], self.group[index])


def nms_per_image(candidates: Candidates, iou_threshold: float, limit: int) -> Tensor:
    """Runs NMS inside each group of each image, then takes the best `limit` boxes of each image.

    Args:
        iou_threshold: a box is dropped if its IoU with a better one is above this.
        limit: most boxes to keep per image.

    Returns:
        int64 indices, ordered by image, then best first.
    """
    if not len(candidates.boxes):
        return candidates.image.new_zeros(0)
    nms = nms_of_many_images if candidates.boxes.is_cuda else nms_image_by_image
    return nms(candidates, iou_threshold, limit)


def nms_image_by_image(candidates: Candidates, iou_threshold: float, limit: int) -> Tensor:
    """Runs `nms_per_image` on a CPU: one call of torchvision's `batched_nms` per image.

    The CPU kernel compares all pairs of boxes, so one call for several images would be slower. Equal scores
    keep the order that torchvision gives them.
    """
    counts = torch.bincount(candidates.image).tolist()
    images = zip(*(t.split(counts) for t in (candidates.boxes, candidates.scores, candidates.group)), strict=True)
    kept = [torchvision_ops().batched_nms(*image, iou_threshold)[:limit] for image in images]
    return torch.cat([k + start for k, start in zip(kept, accumulate([0, *counts[:-1]]), strict=True)])


def nms_of_many_images(
    candidates: Candidates, iou_threshold: float, limit: int, boxes_per_call: int = 20_000
) -> Tensor:
    """Runs `nms_per_image` on a GPU: few calls, because the host waits for each one.

    Boxes of different (image, group) pairs are shifted so that they cannot overlap. The offsets are float64:
    in float32 the offsets of thousands of groups would round the boxes by an eighth of a pixel.

    Args:
        boxes_per_call: most boxes per call, unless a single image has more. A call compares all pairs and
            keeps one bit for each: 50 MB for 20,000 boxes.
    """
    boxes, scores, image, group = candidates.boxes, candidates.scores, candidates.image, candidates.group
    calls = _boxes_of_each_call(torch.bincount(image).tolist(), boxes_per_call)
    offset = (image * (group.max() + 1) + group).double() * (boxes.max().double() + 1)
    shifted, exact_scores = (boxes.double() + offset[:, None]).split(calls), scores.double().split(calls)
    kept = [torchvision_ops().nms(*call, iou_threshold) for call in zip(shifted, exact_scores, strict=True)]
    order = torch.cat([k + start for k, start in zip(kept, accumulate([0, *calls[:-1]]), strict=True)])
    order = order[torch.argsort(image[order], stable=True)]  # by image; NMS has put the best first
    image = image[order]
    rank = torch.arange(len(image), device=image.device) - torch.searchsorted(image, image)
    return order[rank < limit]


def _boxes_of_each_call(counts: Sequence[int], boxes_per_call: int) -> list[int]:
    """Returns the number of boxes in each call: neighbouring images share one while they fit."""
    calls = [0]
    for count in counts:
        if calls[-1] and calls[-1] + count > boxes_per_call:
            calls.append(0)
        calls[-1] += count
    return calls
