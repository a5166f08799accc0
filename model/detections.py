"""The network's results for one image."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Detections:
    """The instances of one image, best first.

    Attributes:
        boxes: float32 (N, 4) xyxy in pixels of the original image.
        scores: float32 (N,), 0..1.
        labels: int64 (N,), the network's output index: 1 is the first class of the preset.
        masks: float32 (N, 28, 28), probabilities over the box.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor

    def __len__(self) -> int:
        return len(self.scores)
