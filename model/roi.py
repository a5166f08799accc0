"""RoIs to fixed-size features: the level rule of the FPN paper and RoIAlign of the Mask R-CNN paper."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

from model.preset import Preset


def roi_levels(boxes: Tensor, preset: Preset, levels: int = 4) -> Tensor:
    """Which level each box takes its features from: floor(k0 + log2(sqrt(w h) / 224)), clamped.

    Args:
        boxes: float32 (R, 4) xyxy, input pixels.

    Returns:
        int64 (R,): 0 is P2.
    """
    side = torch.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    level = torch.floor(
        preset.roi_canonical_level + torch.log2(side / preset.roi_canonical_size) + preset.roi_level_eps
    )
    return level.clamp(2, levels + 1).long() - 2


def pool(features: Sequence[Tensor], rois: Tensor, size: int, preset: Preset) -> Tensor:
    """RoIAlign of every RoI at its own level, one call a level for the whole batch.

    Args:
        features: P2..P5 (a P6 is not used), float32 (B, C, H, W).
        rois: float32 (R, 5), image index and xyxy in input pixels.
        size: side of the result.

    Returns:
        float32 (R, C, size, size), in the order of `rois`.
    """
    level_of = roi_levels(rois[:, 1:], preset)
    pooled = features[0].new_zeros(len(rois), features[0].shape[1], size, size)
    for level, feature in enumerate(features[:4]):
        index = (level_of == level).nonzero()[:, 0]
        if len(index):
            pooled[index] = roi_align(
                feature, rois[index], (size, size), 1 / (4 << level), preset.roi_sampling, preset.roi_aligned
            )
    return pooled
