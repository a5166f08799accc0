"""JPEG files decoded beside the network: against Pillow, and what neither can read."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipeline.jpegs import decode_jpegs

CPU = torch.device("cpu")


def test_pixels_are_pillows_but_for_rounding(photos: Path) -> None:
    files = [p.read_bytes() for p in sorted(photos.glob("*.jpg"))]
    grey = io.BytesIO()
    Image.open(io.BytesIO(files[0])).convert("L").save(grey, "JPEG")
    files.append(grey.getvalue())
    for file, found in zip(files, decode_jpegs(files, CPU), strict=True):
        assert isinstance(found, torch.Tensor)
        expected = np.array(Image.open(io.BytesIO(file)).convert("RGB")).astype(int)
        assert found.shape == expected.shape
        assert np.abs(found.numpy() - expected).max() <= 4
        assert np.abs(found.numpy() - expected).mean() < 0.5


def test_one_bad_file_is_an_error_and_spoils_no_other(photos: Path) -> None:
    good = sorted(photos.glob("*.jpg"))[0].read_bytes()
    cmyk = io.BytesIO()
    Image.open(io.BytesIO(good)).convert("CMYK").save(cmyk, "JPEG")
    first, text, cut, inked, last = decode_jpegs([good, b"no picture", good[:500], cmyk.getvalue(), good], CPU)
    assert isinstance(first, torch.Tensor)
    assert isinstance(inked, torch.Tensor)
    assert torch.equal(first, last)
    assert text.startswith("NotAnImage: ")
    assert cut.startswith("DamagedImage: ")
