"""PNG files of 16-bit colour, or of 16-bit grey with alpha, of which Pillow drops the low bytes without a word."""

from __future__ import annotations

from dataclasses import dataclass

import imagecodecs
import numpy as np

from pipeline.images.intensity_scaling import extremes, stretch


@dataclass(frozen=True)
class DeepPng:
    """Such a file whose header has been read; it stands where a `PIL.Image.Image` does.

    Attributes:
        width, height: pixels.
    """

    width: int
    height: int
    _data: bytes
    format: str = "PNG"
    mode: str = "channels"

    def rgb(self) -> np.ndarray:
        """All pixels, uint8 (H, W, 3) RGB: linearly from minimum and maximum of all channels; alpha is dropped.

        Raises:
            imagecodecs.PngError: the pixel data is damaged or cut off.
        """
        values = imagecodecs.png_decode(self._data)  # (H, W, 2 to 4)
        channels = values[..., : 3 if values.shape[2] > 2 else 1]
        return np.broadcast_to(stretch(channels, extremes(channels)), (self.height, self.width, 3)).copy()


def is_deep(data: bytes) -> bool:
    """Whether a PNG is to be read here, by its header's bit depth and colour type."""
    return data[12:16] == b"IHDR" and data[24] == 16 and data[25] != 0
