"""Decodes an image: first its header, then its pixels as 8-bit RGB. The rules for every format are here.

The mapping to 8-bit RGB:

- Grey is repeated in all three channels. Palettes are looked up. Alpha is dropped. Pillow converts CMYK.
- Values of more than 8 bits are scaled linearly: the minimum and maximum of the image, over red, green and blue
  together, become 0 and 255.
- Of several frames the first is used. `pipeline.images.tiff` has the rules for TIFF files of several channels.
- EXIF orientation is not applied: masks lie on the pixel grid as stored, as in COCO.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from model.masks.tile_grid import Box, Crop
from pipeline.images import png, tiff
from pipeline.images.intensity_scaling import scale_to_uint8, value_range
from pipeline.storage import one_line

Image.init()  # loads the decoders of all formats, for PILLOW_FORMATS
Image.MAX_IMAGE_PIXELS = None  # Pillow's limit is a warning; ours is `max_pixels`, whose error becomes a row
OpenedImage = Image.Image | tiff.MultichannelTiff | png.DeepPng
PILLOW_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # Pillow's modes of one channel of more than 8 bits


class ImageError(Exception):
    """An image that cannot be decoded. The message is the error of its row, `kind: reason`."""


def open_image(data: bytes, max_pixels: int | None) -> OpenedImage:
    """Reads the header of an image and checks its size. Pixels are decoded later.

    Args:
        data: the file.
        max_pixels: the largest number of pixels; None if the image has passed this check before.

    Raises:
        ImageError: no image, a format that is not supported, or an image that is too large.
    """
    image = _open_header(data)
    if max_pixels is not None and image.width * image.height > max_pixels:
        raise ImageError(f"TooManyPixels: {image.width}x{image.height} is over the limit of {max_pixels} pixels")
    if max_pixels is not None and isinstance(image, tiff.MultichannelTiff):
        per_pixel = tiff.MAX_BYTES_PER_PIXEL
        if image.nbytes > max_pixels * per_pixel:
            size = f"{image.width}x{image.height} of {image.nbytes} bytes"
            raise ImageError(f"TooManyPixels: {size} is over {per_pixel} bytes for each of {max_pixels} pixels")
    return image


def _open_header(data: bytes) -> OpenedImage:
    """Reads the header of an image with the module for its format: Pillow, unless another one reads it better."""
    if multichannel := tiff.open_multichannel(data):
        return multichannel
    image = _open_with_pillow(data)
    if image.format == "PNG" and png.is_deep(data):
        return png.DeepPng(image.width, image.height, data)
    return image


def to_rgb(image: OpenedImage) -> np.ndarray:
    """Decodes all pixels of an opened image, uint8 (H, W, 3) RGB, by the mapping at the top of this module.

    Raises:
        ImageError: the pixel data is damaged or cut off.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not isinstance(image, Image.Image):
                return image.to_rgb()
            image.load()
            if image.mode in DEEP_MODES:
                values = np.asarray(image)
                grey = scale_to_uint8(values, value_range(values))
                return np.repeat(grey[:, :, None], 3, axis=2)
            return np.array(image.convert("RGB"))
    except Exception as error:  # decoders fail in many ways on damaged data
        raise ImageError(f"DamagedImage: {one_line(error)}") from None


def cropper(image: OpenedImage) -> Crop:
    """Returns a function that reads boxes of an opened image, with the same pixels as `to_rgb`.

    Pillow's images are converted to RGB box by box, which saves memory. Other images are converted as a whole.

    Raises:
        ImageError: the pixel data is damaged or cut off.
    """
    if not isinstance(image, Image.Image):
        whole = to_rgb(image)
        return lambda box: whole[box[1] : box[3], box[0] : box[2]]
    try:
        image.load()
        limits = value_range(np.asarray(image)) if image.mode in DEEP_MODES else None
    except Exception as error:  # decoders fail in many ways on damaged data
        raise ImageError(f"DamagedImage: {one_line(error)}") from None

    def crop(box: Box) -> np.ndarray:
        part = image.crop(box)
        if limits is None:
            return np.array(part.convert("RGB"))
        return np.repeat(scale_to_uint8(np.asarray(part), limits)[:, :, None], 3, axis=2)

    return crop


def _open_with_pillow(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Image.open(io.BytesIO(data), formats=PILLOW_FORMATS)
    except UnidentifiedImageError:
        if likely := [name for name in PILLOW_FORMATS if _has_signature(data, name)]:
            raise ImageError(f"DamagedImage: begins like a {likely[0]} file and ends or goes on otherwise") from None
        raise ImageError(f"NotAnImage: begins with {data[:12]!r}") from None
    except Exception as error:  # decoders fail in many ways on damaged headers
        raise ImageError(f"DamagedImage: {one_line(error)}") from None


def _has_signature(data: bytes, name: str) -> bool:
    """Whether a file begins like one of a Pillow format."""
    accept = Image.OPEN[name][1]
    return accept is not None and bool(accept(data[:16]))
