"""Downloads a batch's results and splits them by image."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from model.detections import Detections


class BatchDetections(NamedTuple):
    """The instances of a batch, ordered by image, then best first.

    Attributes:
        rois: float32 (N, 5), image index and xyxy in pixels of the network's input.
        scores: float32 (N,), 0..1.
        labels: int64 (N,), the network's output index.
        masks: float32 (N, 28, 28), probabilities over the box.
    """

    rois: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor


def split_by_image(batch: BatchDetections, resized: Tensor, original: Tensor) -> list[Detections]:
    """Returns the detections of each image, on the CPU, with boxes in pixels of the original image.

    Args:
        resized: int64 (B, 2), height and width of each image in the network's input, on the CPU.
        original: int64 (B, 2), height and width of each image before resizing, on the CPU.
    """
    rois, scores, labels, masks = download(batch)
    ratio = original.float() / resized.float()  # (B, 2) as (y, x)
    image = rois[:, 0].long()
    boxes = rois[:, 1:] * ratio[image][:, [1, 0, 1, 0]]
    counts = torch.bincount(image, minlength=len(resized)).tolist()
    fields_of_each_image = zip(*(t.split(counts) for t in (boxes, scores, labels, masks)), strict=True)
    return [Detections(*fields) for fields in fields_of_each_image]


def download(batch: BatchDetections) -> BatchDetections:
    """Copies a batch's results to the CPU in one transfer, because each transfer waits for the GPU's queue."""
    rois, scores, labels, masks = batch
    packed = torch.cat([rois, scores[:, None], labels[:, None].float(), masks.flatten(1)], 1).cpu()
    masks = packed[:, 7:].unflatten(1, masks.shape[1:])
    return BatchDetections(packed[:, :5], packed[:, 5], packed[:, 6].long(), masks)
