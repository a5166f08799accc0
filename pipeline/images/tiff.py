"""TIFF files of more than three times 8 bits: channels of a microscope, deep colour, floating point.

Pillow reads the TIFF of a camera or a scanner. It refuses several channels, and gives some deep images wrongly
without a word (16-bit colour loses its low byte; unsigned 32-bit and signed 8-bit values wrap around). Those are read
here, with tifffile.

Mapping to 8-bit RGB:

- One channel is grey. Of two, the first is red and the second green. Of three or more, the first three are red, green
  and blue. Channels are the samples of a pixel, or what ImageJ, OME or tifffile has named axis C.
- Unsigned 8-bit values stay as they are. Others go linearly from minimum and maximum to 0 and 255: of each channel its
  own, since stains differ in brightness by orders; of colour (photometric RGB) those of the three together, which keeps
  the hue. Where white is 0, grey is inverted.
- Of every other axis (time, focus, pages without a name) the first counts. Alpha is dropped.
"""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tifffile import EXTRASAMPLE, PHOTOMETRIC, SAMPLEFORMAT, TiffFile, TiffPage

from pipeline.images.intensity_scaling import Extremes, extremes, stretch

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it has to say becomes the row's error
BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # TIFF 6.0 and BigTIFF, in either byte order
GREY = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE)
ALPHA = (EXTRASAMPLE.ASSOCALPHA, EXTRASAMPLE.UNASSALPHA)
BYTES = 16  # of a pixel decoded, over all its channels, that the limit of pixels allows


@dataclass(frozen=True)
class Channels:
    """A TIFF whose header has been read; it stands where a `PIL.Image.Image` does.

    Attributes:
        width, height: pixels.
        nbytes: of the largest array that is decoded; large where many channels are interleaved.
    """

    width: int
    height: int
    nbytes: int
    _planes: Sequence[Any]  # pages; one with all the samples, or up to three with a channel each
    _samples: int  # that are channels
    _colour: bool
    _inverted: bool
    format: str = "TIFF"
    mode: str = "channels"

    def rgb(self) -> np.ndarray:
        """All pixels, uint8 (H, W, 3) RGB; the mapping is stated at the top.

        Raises:
            ValueError: the pixel data is damaged or cut off (tifffile raises others too).
        """
        channels = [values for page in self._planes for values in self._channels(page)][:3]
        shared: Extremes | None = None
        if self._colour:
            lows, highs = zip(*map(extremes, channels), strict=True)
            shared = min(lows), max(highs)
        grey = [_eight_bits(values, shared) for values in channels]
        if self._inverted:
            grey = [255 - values for values in grey]
        if len(grey) == 1:
            grey *= 3
        return np.stack([*grey, *[np.zeros_like(grey[0])] * (3 - len(grey))], axis=2)

    def _channels(self, page: Any) -> list[np.ndarray]:
        """The first three channels of a page, each (H, W)."""
        size = page.parent.filehandle.size
        if any(o + n > size for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)):
            raise ValueError("ends before its pixels do")
        values = page.asarray(maxworkers=1).reshape(page.keyframe.shaped)[
            :, 0
        ]  # (planes, depth, rows, columns, samples)
        interleaved = [values[plane, ..., s] for plane in range(values.shape[0]) for s in range(values.shape[-1])]
        return interleaved[: min(self._samples, 3)]


def channels(data: bytes) -> Channels | None:
    """The header of a TIFF that is to be read here, or None: of everything that Pillow reads rightly, or may refuse."""
    if data[:4] not in BEGINNINGS:
        return None
    try:
        file = TiffFile(io.BytesIO(data), _multifile=False)  # never the other files that OME metadata names
        page = file.pages[0]
        assert isinstance(page, TiffPage)
        planes = _named(file, page)
        colour = page.photometric == PHOTOMETRIC.RGB
        if not (colour or page.photometric in GREY) or page.dtype is None or page.dtype.kind not in "uif":
            return None
        samples = 3 if colour else page.samplesperpixel - sum(e in ALPHA for e in page.extrasamples)
        bits = page.bitspersample if isinstance(page.bitspersample, int) else max(page.bitspersample)
        eight = page.sampleformat == SAMPLEFORMAT.UINT and bits <= 8
        if eight and len(planes) == 1 and (colour or samples == 1):
            return None
        chunk = math.prod(page.chunks) if page.chunks else 0
        inverted = page.photometric == PHOTOMETRIC.MINISWHITE
        nbytes = max(page.size, chunk) * page.dtype.itemsize
        return Channels(page.imagewidth, page.imagelength, nbytes, planes, samples, colour, inverted)
    except Exception:  # a damaged header, in one of many ways: Pillow is asked, and says what is wrong
        return None


def _named(file: TiffFile, page: TiffPage) -> Sequence[Any]:
    """The pages of the first three channels of a file that names an axis C; else its first page.

    Other files are not looked through: the pages of a long stack are a linked list.
    """
    if page.is_imagej or page.is_ome or page.is_shaped:
        series = file.series[0]
        axis = series.axes.find("C")
        leading = series.shape[: -page.ndim]
        if 0 <= axis < len(leading) and series.keyframe.shape == page.shape:
            step = math.prod(leading[axis + 1 :])
            pages = [series.pages[c * step] for c in range(min(leading[axis], 3))]
            if all(pages):
                return pages
    return [page]


def _eight_bits(values: np.ndarray, between: Extremes | None) -> np.ndarray:
    return values if values.dtype == np.uint8 else stretch(values, between or extremes(values))
