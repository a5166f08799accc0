"""PNG files with 16-bit colour, or 16-bit grey and alpha. Pillow silently drops their low bytes."""

from __future__ import annotations

from dataclasses import dataclass

import imagecodecs
import numpy as np

from pipeline.images.intensity_scaling import scale_to_uint8, value_range


@dataclass(frozen=True)
class DeepPng:
    """A 16-bit PNG whose header has been read. It has the attributes of a `PIL.Image.Image` that the decoder uses.

    Attributes:
        width, height: pixels.
        format, mode: as in Pillow.
    """

    width: int
    height: int
    _data: bytes
    format: str = "PNG"
    mode: str = "channels"

    def to_rgb(self) -> np.ndarray:
        """Returns all pixels, uint8 (H, W, 3) RGB, scaled from the range of all channels together; alpha is dropped.

        Raises:
            imagecodecs.PngError: the pixel data is damaged or cut off.
        """
        values = imagecodecs.png_decode(self._data)  # (H, W, 2 to 4)
        channels = values[..., : 3 if values.shape[2] > 2 else 1]
        scaled = scale_to_uint8(channels, value_range(channels))
        return np.broadcast_to(scaled, (self.height, self.width, 3)).copy()


def is_deep(data: bytes) -> bool:
    """Whether `DeepPng` must read a PNG: its header says 16 bits and any colour type but grey (0)."""
    return data[12:16] == b"IHDR" and data[24] == 16 and data[25] != 0
