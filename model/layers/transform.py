"""Turns images into network input: size rule, bilinear resizing, normalisation, padding.

The padded shape of an image depends on that image only, never on other images of the batch.
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
    """Returns the height and width that an image is resized to.

    The shorter side becomes `min_size`, unless the longer side would then exceed `max_size`. torchvision rounds
    down, mmdetection and detectron2 round to nearest. detectron2 scales twice, by the shorter side and then by
    the longer, so the rounding errors of both steps decide about half pixels.
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
    """Returns a resized height and width, each rounded up to a multiple of `pad_multiple`."""
    step = preset.pad_multiple
    return math.ceil(size[0] / step) * step, math.ceil(size[1] / step) * step


def shrink(image: Tensor, preset: Preset) -> Tensor:
    """Reduces an image to the size that the network wants, and leaves smaller images unchanged.

    The decoding stage calls this to pass on fewer pixels. `to_input` enlarges small images later.

    Args:
        image: uint8 (H, W, 3).

    Returns:
        uint8 (h, w, 3) of `resized_size`, rounded to whole grey levels, or the image itself.
    """
    height, width = image.shape[:2]
    size = resized_size(height, width, preset)
    if size[0] * size[1] >= height * width:
        return image
    return resize_uint8(image, size, preset)


def resize_uint8(image: Tensor, size: tuple[int, int], preset: Preset) -> Tensor:
    """Resizes an image to uint8 (h, w, 3), by Pillow if the preset says so, else bilinearly."""
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
    """Makes one batch for the network: normalises, resizes and pads.

    Images are normalised before they are resized, unless the preset resizes in whole grey levels.

    Args:
        images: uint8 (h, w, 3) RGB; their resized sizes must have the same `padded_size`.
        sizes: the resized (height, width) of each image.
        exact: normalise every pixel before resizing, as torchvision does. Otherwise resize first, which is the
            same up to rounding and reads only the pixels that the smaller image needs.

    Returns:
        float32 (B, 3, H, W), padded with zeros at the right and bottom.
    """
    mean = torch.tensor(preset.mean, device=device)[:, None, None]
    std = torch.tensor(preset.std, device=device)[:, None, None]
    batch = torch.zeros(len(images), 3, *padded_size(sizes[0], preset), device=device)
    for row, image, (height, width) in zip(batch, images, sizes, strict=True):
        if preset.resize != "float" and image.shape[:2] != (height, width):
            image = resize_uint8(image, (height, width), preset)
        if not exact:
            image = _bilinear(image.to(device, non_blocking=True), (height, width))
        pixels = (image.to(device, non_blocking=True).permute(2, 0, 1).float() / 255 - mean) / std
        if pixels.shape[1:] != (height, width):
            pixels = F.interpolate(pixels[None], (height, width), mode="bilinear")[0]
        row[:, :height, :width] = pixels
    return batch


def _bilinear(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes an image to float32 (h, w, 3), equal to `interpolate(mode="bilinear")` up to rounding.

    Shrinking reads only the 2x2 pixels that each result needs, so most of a large image is never read.
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
    """Returns, for each of `after` pixels, the two of `before` that it lies between and the second one's weight."""
    position = ((torch.arange(after, device=device) + 0.5) * (before / after) - 0.5).clamp(min=0)
    low = position.long().clamp(max=before - 1)
    return low, (low + 1).clamp(max=before - 1), position - low
