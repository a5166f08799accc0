"""Images of every kind for tests, and how to decode them."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from pipeline.images import ImageError, open_image, to_rgb
from support.faults.fuzz import chunk

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def stored(image: Image.Image, kind: str, **options: object) -> bytes:
    """An image as a file of a Pillow format."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> np.ndarray:
    """The pixels of a file as RGB."""
    return to_rgb(open_image(data, 1_000_000))


# (top, left, row step, column step) of each pass of an interlaced PNG
ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]


def deep_png(values: np.ndarray, interlaced: bool = False, extra: bytes = b"") -> bytes:
    """A PNG of 16-bit samples (rows, columns, 2 to 4)."""
    passes = [values[y::dy, x::dx] for y, x, dy, dx in ADAM7] if interlaced else [values]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for part in passes if part.size for row in part)
    height, width, samples = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[samples], 0, 0, interlaced)
    chunks = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def assert_pixels_or_a_reason(data: st.DataObject, whole: bytes, least: int = 0) -> None:
    """Decodes a file with some bytes changed and its end cut off: it gives pixels or an `ImageError`, nothing else.

    Args:
        least: bytes that are left at least.
    """
    file = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 8))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(least, len(file)))
    try:
        got = decoded(bytes(file[:cut]))
    except ImageError as error:
        assert ": " in str(error)
        assert "\n" not in str(error)
    else:
        assert (got.dtype, got.ndim) == (np.uint8, 3)
