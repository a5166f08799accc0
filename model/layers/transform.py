"""Images to network input: size rule, bilinear resize, normalisation, padding.

The padded shape of an image depends on that image alone, never on its neighbours in a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from model.preset import Preset


def resized_size(height: int, width: int, preset: Preset) -> tuple[int, int]:
    """Height and width at which the network sees an image.

    The shorter side becomes `min_size` unless the longer would exceed `max_size`. Fractions are cut
    (torchvision) or rounded (mmdetection; detectron2, which scales by the shorter side and then again by the
    longer, so that rounding errors of both decide what is half a pixel).
    """
    if preset.resize_rounding == "detectron2":
        scale = preset.min_size / min(height, width)
        sides = (float(preset.min_size), scale * width) if height < width else (scale * height, float(preset.min_size))
        scale = min(1.0, preset.max_size / max(sides))
    else:
        sides = (float(height), float(width))
        scale = min(preset.min_size / min(height, width), preset.max_size / max(height, width))
    half = 0.0 if preset.resize_rounding == "down" else 0.5
    return max(1, math.floor(sides[0] * scale + half)), max(1, math.floor(sides[1] * scale + half))


def padded_size(size: tuple[int, int], preset: Preset) -> tuple[int, int]:
    """The resized height and width, rounded up to whole multiples of the coarsest trunk stride."""
    step = preset.pad_multiple
    return math.ceil(size[0] / step) * step, math.ceil(size[1] / step) * step


def shrink(image: Tensor, preset: Preset) -> Tensor:
    """An image no larger than the network wants it; smaller ones as they are.

    Lets the reader of an image send on fewer pixels. Enlarging is left to the network's side.

    Args:
        image: uint8 (H, W, 3).

    Returns:
        uint8 (h, w, 3): of `resized_size`, in whole grey levels, or the image itself.
    """
    height, width = image.shape[:2]
    size = resized_size(height, width, preset)
    if size[0] * size[1] >= height * width:
        return image
    return resized(image, size, preset)


def resized(image: Tensor, size: tuple[int, int], preset: Preset) -> Tensor:
    """An image resized in whole grey levels, uint8 (h, w, 3): by Pillow if the preset says so, else bilinear."""
    if preset.resize == "pillow":
        return torch.from_numpy(
            np.array(Image.fromarray(image.cpu().numpy()).resize(size[::-1], Image.Resampling.BILINEAR))
        )
    return _bilinear(image, size).round().to(torch.uint8).contiguous()


def to_input(
    images: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
    preset: Preset,
    device: torch.device,
    exact: bool = True,
) -> Tensor:
    """One batch for the network.

    Args:
        images: uint8 (h, w, 3) RGB, any sizes whose `padded_size` is the same.
        sizes: the resized height and width of each.
        exact: normalise every pixel before resizing, as torchvision does, also those that a smaller image
            does not need. Otherwise it is the same up to rounding, and a large image costs what a small one does.

    Returns:
        float32 (B, 3, H, W): normalised, then resized (before, where that is in whole grey levels), then
        padded with zeros at the right and bottom.
    """
    mean = torch.tensor(preset.mean, device=device)[:, None, None]
    std = torch.tensor(preset.std, device=device)[:, None, None]
    batch = torch.zeros(len(images), 3, *padded_size(sizes[0], preset), device=device)
    for row, image, (height, width) in zip(batch, images, sizes, strict=True):
        if preset.resize != "float" and image.shape[:2] != (height, width):
            image = resized(image, (height, width), preset)
        if not exact:
            image = _bilinear(image.to(device, non_blocking=True), (height, width))
        pixels = (image.to(device, non_blocking=True).permute(2, 0, 1).float() / 255 - mean) / std
        if pixels.shape[1:] != (height, width):
            pixels = F.interpolate(pixels[None], (height, width), mode="bilinear")[0]
        row[:, :height, :width] = pixels
    return batch


def _bilinear(image: Tensor, size: tuple[int, int]) -> Tensor:
    """An image resized to float32 (h, w, 3), as `interpolate(mode="bilinear")` up to rounding.

    A smaller image is made of the pixels it needs, two by two of each: most of a large one is never looked at.
    """
    if image.shape[0] < size[0] or image.shape[1] < size[1]:
        return F.interpolate(image.permute(2, 0, 1)[None].float(), size, mode="bilinear")[0].permute(1, 2, 0)
    (top, bottom, y), (left, right, x) = (
        _neighbours(n, m, image.device) for n, m in zip(image.shape[:2], size, strict=True)
    )
    upper, lower = image[top], image[bottom]
    upper = torch.lerp(upper[:, left].float(), upper[:, right].float(), x[:, None])
    lower = torch.lerp(lower[:, left].float(), lower[:, right].float(), x[:, None])
    return torch.lerp(upper, lower, y[:, None, None])


def _neighbours(before: int, after: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each of `after` pixels the two of `before` that it lies between, and the weight of the second."""
    at = ((torch.arange(after, device=device) + 0.5) * (before / after) - 0.5).clamp(min=0)
    low = at.long().clamp(max=before - 1)
    return low, (low + 1).clamp(max=before - 1), at - low
