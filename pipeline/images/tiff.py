"""TIFF files that Pillow does not read correctly: channels of a microscope, deep colour, floating point.

Pillow reads the TIFF files of cameras and scanners. It refuses files of several channels, and it silently decodes some
deep images wrongly: 16-bit colour loses its low byte, unsigned 32-bit and signed 8-bit values wrap around. This module
reads those with tifffile.

The mapping to 8-bit RGB:

- One channel is grey. Of two channels, the first is red and the second green. Of three or more, the first three are
  red, green and blue. Channels are the samples of a pixel, or the axis that ImageJ, OME or tifffile metadata names C.
- Unsigned 8-bit values stay as they are. Other values are scaled linearly to 0..255. Each channel is scaled from its
  minimum and maximum, since the brightness of stains differs by orders of magnitude. Colour (photometric RGB) is scaled
  from the minimum and maximum of the three channels together, which keeps the hue.
- Where white is 0 (photometric MinIsWhite), grey is inverted.
- Of every other axis (time, focus, unnamed pages) the first position is used. Alpha is dropped.
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

from pipeline.images.intensity_scaling import ValueRange, scale_to_uint8, value_range

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # its warnings end up in the row's error instead
SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # TIFF 6.0 and BigTIFF, little and big endian
GREY = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE)
ALPHA = (EXTRASAMPLE.ASSOCALPHA, EXTRASAMPLE.UNASSALPHA)
MAX_BYTES_PER_PIXEL = 16  # decoded bytes of all channels that the limit of pixels allows for each pixel


@dataclass(frozen=True)
class MultichannelTiff:
    """A TIFF whose header has been read. It has the attributes of a `PIL.Image.Image` that the decoder uses.

    Attributes:
        width, height: pixels.
        nbytes: size of the largest array that decoding needs. It is large if many channels are interleaved.
        format, mode: as in Pillow.
    """

    width: int
    height: int
    nbytes: int
    _pages: Sequence[Any]  # one page with all samples, or up to three pages with a channel each
    _samples: int  # samples of a pixel that are channels
    _colour: bool
    _inverted: bool
    format: str = "TIFF"
    mode: str = "channels"

    def to_rgb(self) -> np.ndarray:
        """Returns all pixels, uint8 (H, W, 3) RGB, by the mapping at the top of this module.

        Raises:
            ValueError: the pixel data is damaged or cut off (tifffile raises other errors too).
        """
        channels = [values for page in self._pages for values in self._channels(page)][:3]
        shared: ValueRange | None = None
        if self._colour:
            lows, highs = zip(*map(value_range, channels), strict=True)
            shared = min(lows), max(highs)
        planes = [_eight_bits(values, shared) for values in channels]
        if self._inverted:
            planes = [255 - plane for plane in planes]
        if len(planes) == 1:
            planes *= 3
        return np.stack([*planes, *[np.zeros_like(planes[0])] * (3 - len(planes))], axis=2)

    def _channels(self, page: Any) -> list[np.ndarray]:
        """Returns the first three channels of a page, each (H, W)."""
        size = page.parent.filehandle.size
        if any(o + n > size for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)):
            raise ValueError("the file ends before its pixels do")
        # (planes, depth, H, W, samples), at the first position of depth
        values = page.asarray(maxworkers=1).reshape(page.keyframe.shaped)[:, 0]
        channels = [values[plane, ..., s] for plane in range(values.shape[0]) for s in range(values.shape[-1])]
        return channels[: min(self._samples, 3)]


def open_multichannel(data: bytes) -> MultichannelTiff | None:
    """Reads the header of a TIFF.

    Returns:
        None if Pillow should read the file: it is no TIFF, Pillow reads it correctly, or its header is damaged.
    """
    if data[:4] not in SIGNATURES:
        return None
    try:
        file = TiffFile(io.BytesIO(data), _multifile=False)  # does not open other files that OME metadata names
        page = file.pages[0]
        assert isinstance(page, TiffPage)
        pages = _channel_pages(file, page)
        colour = page.photometric == PHOTOMETRIC.RGB
        if not (colour or page.photometric in GREY) or page.dtype is None or page.dtype.kind not in "uif":
            return None
        samples = 3 if colour else page.samplesperpixel - sum(e in ALPHA for e in page.extrasamples)
        bits = page.bitspersample if isinstance(page.bitspersample, int) else max(page.bitspersample)
        eight_bits = page.sampleformat == SAMPLEFORMAT.UINT and bits <= 8
        if eight_bits and len(pages) == 1 and (colour or samples == 1):
            return None
        chunk = math.prod(page.chunks) if page.chunks else 0
        inverted = page.photometric == PHOTOMETRIC.MINISWHITE
        nbytes = max(page.size, chunk) * page.dtype.itemsize
        return MultichannelTiff(page.imagewidth, page.imagelength, nbytes, pages, samples, colour, inverted)
    except Exception:  # a damaged header fails in many ways; Pillow then says what is wrong
        return None


def _channel_pages(file: TiffFile, page: TiffPage) -> Sequence[Any]:
    """Returns the pages of the first three channels if metadata names an axis C; else the first page.

    Without such metadata the pages are not counted: in a long stack they are a linked list through the file.
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


def _eight_bits(values: np.ndarray, limits: ValueRange | None) -> np.ndarray:
    """Returns values as uint8, scaled from the limits, or from their own range if there are none."""
    return values if values.dtype == np.uint8 else scale_to_uint8(values, limits or value_range(values))
