"""Checks images and groups them into batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from model.layers.transform import padded_size
from model.preset import Preset


def checked_image(image: np.ndarray | Tensor, number: int) -> Tensor:
    """Returns an image as a tensor, after checking that it is uint8 (H, W, 3).

    Values of other types would silently be taken as 0..255.

    Args:
        number: position of the image in the caller's list, for the message.

    Raises:
        ValueError: the image has another dtype or shape, or no pixels.
    """
    if str(image.dtype).removeprefix("torch.") != "uint8" or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(
            f"image {number} is {image.dtype} {tuple(image.shape)}; it must be uint8 (H, W, 3), RGB from 0 to 255, "
            "with H and W at least 1"
        )
    return torch.as_tensor(np.ascontiguousarray(image) if isinstance(image, np.ndarray) else image)


def batches_by_shape(sizes: Sequence[tuple[int, int]], preset: Preset, batch_size: int) -> list[list[int]]:
    """Groups images of equal padded shape into batches of at most `batch_size`.

    Args:
        sizes: resized (height, width) of each image.

    Returns:
        The positions of each batch's images in `sizes`.
    """
    by_shape = defaultdict(list)
    for i, size in enumerate(sizes):
        by_shape[padded_size(size, preset)].append(i)
    return [m[start : start + batch_size] for m in by_shape.values() for start in range(0, len(m), batch_size)]
