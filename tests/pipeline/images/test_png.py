"""PNG files of 16-bit colour: no low byte is lost."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from support.faults.fuzz import chunk
from support.images import decoded, deep_png

from pipeline.images import ImageError, cropper, open_image


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("samples", [2, 3, 4])
def test_sixteen_bit_colour_is_scaled_together_and_alpha_is_dropped(samples: int, interlaced: bool) -> None:
    values = np.random.default_rng(samples).integers(100, 4000, (20, 30, samples), np.uint16)
    values[..., -1] //= 1 if samples == 3 else 50  # alpha, which is ignored
    channels = values[..., :3] if samples > 2 else values[..., :1]
    low, high = int(channels.min()), int(channels.max())
    exact = np.broadcast_to((channels.astype(float) - low) * 255 / (high - low), (20, 30, 3))
    transparent = chunk(b"tRNS", struct.pack(">HHH", *values[0, 0])) if samples == 3 else b""
    for extra in (b"", chunk(b"gAMA", struct.pack(">I", 45455)), transparent):
        data = deep_png(values, interlaced, extra)
        got = decoded(data)
        assert np.abs(got - exact).max() <= 0.5 + 1e-9
        assert np.array_equal(cropper(open_image(data, 600))((3, 5, 21, 14)), got[5:14, 3:21])
        with pytest.raises(ImageError, match=r"^TooManyPixels: 30x20 is over the limit of 599"):
            open_image(data, 599)
        for damaged in (data[: len(data) // 2], data[:300] + bytes(9) + data[309:]):
            with pytest.raises(ImageError, match=r"^DamagedImage: "):
                decoded(damaged)
            with pytest.raises(ImageError, match=r"^DamagedImage: "):
                cropper(open_image(damaged, 600))
