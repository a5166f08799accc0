"""Bytes to pixels: the header first, then 8-bit RGB. One place decides for every format.

The mapping to 8-bit RGB:

- Grey is repeated in all three channels. A palette is looked up. Alpha is dropped. Pillow converts CMYK.
- More than 8 bits are scaled linearly: the minimum and maximum of the image, over red, green and blue together, become
  0 and 255.
- Of several frames the first counts. `pipeline.images.tiff` states the rules for TIFF files of several channels.
- EXIF orientation is not applied: masks lie on the pixel grid as stored, as in COCO.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from model.masks.tile_grid import Box, Crop
from pipeline.images import png, tiff
from pipeline.images.intensity_scaling import extremes, stretch
from pipeline.storage import one_line

Image.init()  # all decoders, so that `formats` may name them
Image.MAX_IMAGE_PIXELS = None  # the limit is ours, below, and is an error row rather than a warning
Opened = Image.Image | tiff.Channels | png.DeepPng
DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # Pillow's modes of one channel of more than 8 bits
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")


class ImageError(Exception):
    """An image that cannot be segmented; the message is the row's error, `Class: reason`."""


def open_image(data: bytes, max_pixels: int | None) -> Opened:
    """An image's header read, its pixels not yet.

    Args:
        max_pixels: it may have, and memory for as many; None: it has passed this before.

    Raises:
        ImageError: no image, a format that is not read, or more pixels than allowed.
    """
    image = tiff.channels(data) or _pillow(data)
    if max_pixels is not None and image.width * image.height > max_pixels:
        raise ImageError(f"TooManyPixels: {image.width}x{image.height} is over the limit of {max_pixels} pixels")
    if max_pixels is not None and isinstance(image, tiff.Channels) and image.nbytes > max_pixels * tiff.BYTES:
        size = f"{image.width}x{image.height} of {image.nbytes} bytes"
        raise ImageError(f"TooManyPixels: {size} is over {tiff.BYTES} bytes for each of {max_pixels} pixels")
    if image.format == "PNG" and png.is_deep(data):
        return png.DeepPng(image.width, image.height, data)
    return image


def _pillow(data: bytes) -> Image.Image:
    """The header of all but what `pipeline.images.tiff` reads."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        likely = [name for name in FORMATS if Image.OPEN[name][1] and Image.OPEN[name][1](data[:16])]  # type: ignore[misc]
        if likely:
            raise ImageError(f"DamagedImage: begins like a {likely[0]} file and ends or goes on otherwise") from None
        raise ImageError(f"NotAnImage: begins with {data[:12]!r}") from None
    except Exception as error:  # decoders fail in many ways on damaged headers
        raise ImageError(f"DamagedImage: {one_line(error)}") from None


def to_rgb(image: Opened) -> np.ndarray:
    """All pixels of an opened image, uint8 (H, W, 3) RGB; the mapping is stated at the top.

    Raises:
        ImageError: the pixel data is damaged or cut off.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not isinstance(image, Image.Image):
                return image.rgb()
            image.load()
            if image.mode in DEEP:
                values = np.asarray(image)
                grey = stretch(values, extremes(values))
                return np.repeat(grey[:, :, None], 3, axis=2)
            return np.array(image.convert("RGB"))
    except Exception as error:  # decoders fail in many ways on damaged data
        raise ImageError(f"DamagedImage: {one_line(error)}") from None


def cropper(image: Opened) -> Crop:
    """Reads parts of an opened image as RGB: the pixels that `to_rgb` gives; all at once what Pillow does not read.

    Raises:
        ImageError: the pixel data is damaged or cut off.
    """
    if not isinstance(image, Image.Image):
        whole = to_rgb(image)
        return lambda box: whole[box[1] : box[3], box[0] : box[2]]
    try:
        image.load()
        between = extremes(np.asarray(image)) if image.mode in DEEP else None
    except Exception as error:  # decoders fail in many ways on damaged data
        raise ImageError(f"DamagedImage: {one_line(error)}") from None

    def crop(box: Box) -> np.ndarray:
        part = image.crop(box)
        if between is None:
            return np.array(part.convert("RGB"))
        return np.repeat(stretch(np.asarray(part), between)[:, :, None], 3, axis=2)

    return crop
