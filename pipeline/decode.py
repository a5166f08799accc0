"""Bytes to pixels: header first, then RGB, then no larger than the network wants them.

What an image holds is mapped to 8-bit RGB thus: grey is repeated; a palette is looked up; alpha is
dropped; CMYK is converted by Pillow; more than 8 bits go linearly from the image's own minimum and maximum, those of
red, green and blue together, to 0 and 255; of several frames the first counts; for TIFF of several channels see
`pipeline.tiff`. EXIF orientation is not applied: masks lie on the pixel grid as stored, as in COCO.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image, UnidentifiedImageError

from model.preset import Preset
from model.tiling import Box, Crop, Tiling
from model.transform import shrink
from pipeline import png, tiff
from pipeline.casualties import Casualties, trusted
from pipeline.depth import extremes, stretch
from pipeline.progress import Progress
from pipeline.storage import one_line

Image.init()  # all decoders, so that `formats` may name them
Image.MAX_IMAGE_PIXELS = None  # the limit is ours, below, and is an error row rather than a warning
BLOCK = 32 << 20  # bytes after which a task ends a block and begins another, at most
Opened = Image.Image | tiff.Channels | png.DeepPng
DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # Pillow's modes of one channel of more than 8 bits
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
DECODED = pa.schema(
    [
        ("image_id", pa.int64()),
        ("uri", pa.string()),
        ("error", pa.string()),
        ("width", pa.int32()),  # of the stored image
        ("height", pa.int32()),
        ("rows", pa.int32()),  # of the pixels here
        ("columns", pa.int32()),
        ("pixels", pa.large_binary()),  # uint8 (rows, columns, 3); null of an image to be cut into tiles
        ("encoded", pa.large_binary()),  # an image that the actor decodes, as stored
    ]
)


class BadImageError(Exception):
    """An image that cannot be segmented; the message is the row's error, `Class: reason`."""


class Decode:
    """A batch of fetched rows in, blocks of decoded rows of bounded size out.

    An image that is to be cut into tiles passes as it is, its header read: decoded it would be the largest
    block of the job by far, and the actor wants a tile at a time. So does one that the actor's GPU is to decode.
    """

    def __init__(
        self,
        preset: Preset,
        max_pixels: int,
        tiling: Tiling | None,
        nvjpeg: bool,
        progress: Progress,
        casualties: Casualties,
        block: int,
    ) -> None:
        self.preset, self.max_pixels, self.tiling, self.nvjpeg = preset, max_pixels, tiling, nvjpeg
        self.progress, self.casualties, self.block = progress, casualties, block

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        torch.set_num_threads(1)  # many of these tasks run side by side
        waiting = batch.to_pylist()[::-1]
        with self.casualties.batch("decode", batch["image_id"].to_pylist()) as suspected:
            alone = suspected or trusted
            while waiting:
                rows: list[dict[str, Any]] = []
                size = 0
                with self.progress.stage("decode") as passed:
                    while waiting and size < self.block:
                        row = waiting.pop()
                        with alone(row["image_id"]) as error:
                            rows.append(self._decode(row if error is None else row | {"error": error}))
                        size += len(rows[-1].get("pixels") or rows[-1].get("encoded") or b"")
                    passed["images"] = len(rows)
                yield pa.Table.from_pylist(rows, schema=DECODED)

    def _decode(self, row: dict[str, Any]) -> dict[str, Any]:
        done = {"image_id": row["image_id"], "uri": row["uri"], "error": row["error"]}
        if row["error"] is not None:
            return done
        try:
            image = open_image(row["data"], self.max_pixels)
            done |= {"width": image.width, "height": image.height}
            tiled = self.tiling and self.tiling.needed(image.height, image.width)
            if tiled or (self.nvjpeg and image.format == "JPEG" and image.mode in ("L", "RGB")):
                return done | {"encoded": row["data"]}
            pixels = shrink(torch.from_numpy(to_rgb(image)), self.preset).numpy()
        except BadImageError as error:
            return done | {"error": str(error)}
        except (RuntimeError, MemoryError) as error:
            return done | {"error": f"DecodeError: {one_line(error)}"}
        return done | {"rows": pixels.shape[0], "columns": pixels.shape[1], "pixels": pixels.tobytes()}


def open_image(data: bytes, max_pixels: int | None) -> Opened:
    """An image's header read, its pixels not yet.

    Args:
        max_pixels: it may have, and memory for as many; None: it has passed this before.

    Raises:
        BadImageError: no image, a format that is not read, or more pixels than allowed.
    """
    image = tiff.channels(data) or _pillow(data)
    if max_pixels is not None and image.width * image.height > max_pixels:
        raise BadImageError(f"TooManyPixels: {image.width}x{image.height} is over the limit of {max_pixels} pixels")
    if max_pixels is not None and isinstance(image, tiff.Channels) and image.nbytes > max_pixels * tiff.BYTES:
        size = f"{image.width}x{image.height} of {image.nbytes} bytes"
        raise BadImageError(f"TooManyPixels: {size} is over {tiff.BYTES} bytes for each of {max_pixels} pixels")
    if image.format == "PNG" and png.is_deep(data):
        return png.DeepPng(image.width, image.height, data)
    return image


def _pillow(data: bytes) -> Image.Image:
    """The header of all but what `pipeline.tiff` reads."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        likely = [name for name in FORMATS if Image.OPEN[name][1] and Image.OPEN[name][1](data[:16])]  # type: ignore[misc]
        if likely:
            raise BadImageError(f"DamagedImage: begins like a {likely[0]} file and ends or goes on otherwise") from None
        raise BadImageError(f"NotAnImage: begins with {data[:12]!r}") from None
    except Exception as error:  # decoders fail in many ways on damaged headers
        raise BadImageError(f"DamagedImage: {one_line(error)}") from None


def to_rgb(image: Opened) -> np.ndarray:
    """All pixels of an opened image, uint8 (H, W, 3) RGB; the mapping is stated at the top.

    Raises:
        BadImageError: the pixel data is damaged or cut off.
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
        raise BadImageError(f"DamagedImage: {one_line(error)}") from None


def cropper(image: Opened) -> Crop:
    """Reads parts of an opened image as RGB: the pixels that `to_rgb` gives; all at once what Pillow does not read.

    Raises:
        BadImageError: the pixel data is damaged or cut off.
    """
    if not isinstance(image, Image.Image):
        whole = to_rgb(image)
        return lambda box: whole[box[1] : box[3], box[0] : box[2]]
    try:
        image.load()
        between = extremes(np.asarray(image)) if image.mode in DEEP else None
    except Exception as error:  # decoders fail in many ways on damaged data
        raise BadImageError(f"DamagedImage: {one_line(error)}") from None

    def crop(box: Box) -> np.ndarray:
        part = image.crop(box)
        if between is None:
            return np.array(part.convert("RGB"))
        return np.repeat(stretch(np.asarray(part), between)[:, :, None], 3, axis=2)

    return crop
