"""Fixed-size features of RoIs: the level rule of the FPN paper and RoIAlign of the Mask R-CNN paper."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from model.layers.torchvision_ops import torchvision_ops
from model.preset import Preset


def roi_levels(boxes: Tensor, preset: Preset, levels: int = 4) -> Tensor:
    """Returns the level that each box takes its features from: floor(k0 + log2(sqrt(w h) / 224)), clamped.

    Args:
        boxes: float32 (R, 4) xyxy, input pixels.

    Returns:
        int64 (R,): 0 is P2.
    """
    side = torch.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    level = torch.floor(
        preset.roi_canonical_level
        + torch.log2(side / preset.roi_canonical_size + preset.roi_ratio_eps)
        + preset.roi_level_eps
    )
    return level.clamp(2, levels + 1).long() - 2


def multiscale_roi_align(
    features: Sequence[Tensor], rois: Tensor, size: int, preset: Preset, exact: bool = True
) -> Tensor:
    """Applies RoIAlign to every RoI at its level: one call per level for the whole batch.

    Args:
        features: P2..P5 (a P6 is ignored), each (B, C, H, W).
        rois: float32 (R, 5), image index and xyxy in input pixels.
        size: side of the result.
        exact: use torchvision's operator. Otherwise a CPU uses `roi_align_by_gathering`, unless the sampling
            is adaptive.

    Returns:
        (R, C, size, size), in the order of `rois` and the dtype of the features.
    """
    level_of = roi_levels(rois[:, 1:], preset)
    gather = not exact and not features[0].is_cuda and preset.roi_sampling > 0
    pooled = features[0].new_empty(len(rois), size, size, features[0].shape[1]).permute(0, 3, 1, 2)
    if not gather:
        pooled = pooled.contiguous()
    for level, feature in enumerate(features[:4]):
        index = (level_of == level).nonzero()[:, 0]
        if len(index):
            align = roi_align_by_gathering if gather else _roi_align
            pooled[index] = align(feature, rois[index], size, 1 / (4 << level), preset.roi_sampling, preset.roi_aligned)
    return pooled


def _roi_align(feature: Tensor, rois: Tensor, size: int, scale: float, sampling: int, aligned: bool) -> Tensor:
    """Calls torchvision's operator, which computes in float32."""
    return torchvision_ops().roi_align(feature.float(), rois, (size, size), scale, sampling, aligned).to(feature.dtype)


def roi_align_by_gathering(
    feature: Tensor, rois: Tensor, size: int, scale: float, sampling: int, aligned: bool
) -> Tensor:
    """Computes RoIAlign as weighted sums of pixels: `embedding_bag` with the map as its table.

    Every cell of the result is the mean of sampling^2 bilinear samples, which is a weighted sum of
    4 sampling^2 pixels. If the channels of a pixel are contiguous in memory, that sum is a few vector
    operations. torchvision's CPU operator loops over channels instead: it takes 0.42 s for 1,000 RoIs of 7x7
    and 256 channels, and this takes 0.03 s (one core, bfloat16). Coordinates are float32; only the weights and
    the sums are rounded to the dtype of the map.

    Args:
        feature: (B, C, H, W); it is fast only in channels_last.
        rois: float32 (R, 5), image index and xyxy in input pixels.
        size: side of the result.
        scale: map pixels per input pixel.
        sampling: samples along each side of a cell, at least 1.
        aligned: pixel centres are at half-integers (detectron2), not at integers (torchvision's default).

    Returns:
        (R, C, size, size), channels last in memory.
    """
    _, channels, height, width = feature.shape
    corners = rois[:, 1:] * scale - (0.5 if aligned else 0.0)
    extent = corners[:, 2:] - corners[:, :2]
    if not aligned:
        extent = extent.clamp(min=1.0)
    x, x_weight = _bilinear_samples(corners[:, 0], extent[:, 0], size, sampling, width)
    y, y_weight = _bilinear_samples(corners[:, 1], extent[:, 1], size, sampling, height)
    y = (y + rois[:, 0].long()[:, None, None] * height) * width
    pixels = (y[:, :, None, :, None] + x[:, None, :, None, :]).reshape(len(rois) * size**2, -1)
    weights = (y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]).reshape(pixels.shape)
    table = feature.permute(0, 2, 3, 1).reshape(-1, channels)
    cells = F.embedding_bag(pixels, table, mode="sum", per_sample_weights=weights.to(table.dtype))
    return cells.view(len(rois), size, size, channels).permute(0, 3, 1, 2)


def _bilinear_samples(start: Tensor, extent: Tensor, size: int, sampling: int, limit: int) -> tuple[Tensor, Tensor]:
    """Returns the pixels along one axis that each cell's samples lie between, and their bilinear weights.

    A sample more than one pixel outside the map counts as zero. A nearer one is moved to the border.

    Args:
        start: float32 (R,), where each RoI begins on the axis, map pixels.
        extent: float32 (R,), its length.
        limit: length of the map.

    Returns:
        int64 and float32 (R, size, 2 * sampling).
    """
    step = torch.arange(size * sampling, device=start.device)
    cell = (extent / size)[:, None]
    x = start[:, None] + step.div(sampling, rounding_mode="floor") * cell + (step % sampling + 0.5) * cell / sampling
    weight = ((x >= -1) & (x <= limit)).float() / sampling
    x = x.clamp(0, limit - 1)
    low = x.floor()
    fraction = x - low
    pixels = torch.stack([low, (low + 1).clamp(max=limit - 1)], dim=-1).long()
    weights = torch.stack([(1 - fraction) * weight, fraction * weight], dim=-1)
    return pixels.view(len(start), size, -1), weights.view(len(start), size, -1)
