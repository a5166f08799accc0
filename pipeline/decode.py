"""Bytes to pixels: header first, then RGB, then no larger than the network wants them.

What an image holds is mapped to 8-bit RGB thus: grey is repeated; a palette is looked up; alpha is
dropped; CMYK is converted by Pillow; one channel of more than 8 bits (16-bit PNG and TIFF, float TIFF) goes
linearly from the image's own minimum and maximum to 0 and 255; of several frames the first counts. EXIF
orientation is not applied: masks lie on the pixel grid as stored, as in COCO.
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
from model.tiles import Box, Crop, Tiling
from model.transform import shrink
from pipeline.casualties import Casualties, trusted
from pipeline.progress import Progress
from pipeline.storage import one_line

Image.init()  # all decoders, so that `formats` may name them
Image.MAX_IMAGE_PIXELS = None  # the limit is ours, below, and is an error row rather than a warning
BLOCK = 32 << 20  # bytes after which a task ends a block and begins another
STRIP = 256  # rows
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
    ) -> None:
        self.preset, self.max_pixels, self.tiling, self.nvjpeg = preset, max_pixels, tiling, nvjpeg
        self.progress, self.casualties = progress, casualties

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        torch.set_num_threads(1)  # many of these tasks run side by side
        waiting = batch.to_pylist()[::-1]
        with self.casualties.batch("decode", batch["image_id"].to_pylist()) as suspected:
            alone = suspected or trusted
            while waiting:
                rows: list[dict[str, Any]] = []
                size = 0
                with self.progress.stage("decode") as passed:
                    while waiting and size < BLOCK:
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


def open_image(data: bytes, max_pixels: int) -> Image.Image:
    """An image's header read, its pixels not yet.

    Raises:
        BadImageError: no image, a format that is not read, or more pixels than allowed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        likely = [name for name in FORMATS if Image.OPEN[name][1] and Image.OPEN[name][1](data[:16])]  # type: ignore[misc]
        if likely:
            raise BadImageError(f"DamagedImage: begins like a {likely[0]} file and ends or goes on otherwise") from None
        raise BadImageError(f"NotAnImage: begins with {data[:12]!r}") from None
    except Exception as error:  # decoders fail in many ways on damaged headers
        raise BadImageError(f"DamagedImage: {one_line(error)}") from None
    if image.width * image.height > max_pixels:
        raise BadImageError(f"TooManyPixels: {image.width}x{image.height} is over the limit of {max_pixels} pixels")
    return image


def to_rgb(image: Image.Image) -> np.ndarray:
    """All pixels of an opened image, uint8 (H, W, 3) RGB; the mapping is stated at the top.

    Raises:
        BadImageError: the pixel data is damaged or cut off.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
            if image.mode in DEEP:
                values = np.asarray(image)
                grey = _stretch(values, _extremes(values))
                return np.repeat(grey[:, :, None], 3, axis=2)
            return np.array(image.convert("RGB"))
    except Exception as error:  # decoders fail in many ways on damaged data
        raise BadImageError(f"DamagedImage: {one_line(error)}") from None


def cropper(image: Image.Image) -> Crop:
    """Reads parts of an opened image as RGB: the pixels that `to_rgb` gives, never all of them at once.

    Raises:
        BadImageError: the pixel data is damaged or cut off.
    """
    try:
        image.load()
        extremes = _extremes(np.asarray(image)) if image.mode in DEEP else None
    except Exception as error:  # decoders fail in many ways on damaged data
        raise BadImageError(f"DamagedImage: {one_line(error)}") from None

    def crop(box: Box) -> np.ndarray:
        part = image.crop(box)
        if extremes is None:
            return np.array(part.convert("RGB"))
        return np.repeat(_stretch(np.asarray(part), extremes)[:, :, None], 3, axis=2)

    return crop


def _extremes(values: np.ndarray) -> tuple[float, float]:
    """Minimum and maximum, of NaN as 0."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        values = np.nan_to_num(values)
    return float(values.min()), float(values.max())


def _stretch(values: np.ndarray, extremes: tuple[float, float]) -> np.ndarray:
    """Values of any depth as uint8, linearly from the image's minimum and maximum; a flat image is black."""
    low, high = extremes
    grey = np.zeros(values.shape, np.uint8)
    if high > low:
        for start in range(0, len(values), STRIP):  # of a whole image the float64 would be the largest part
            strip = np.nan_to_num(values[start : start + STRIP].astype(np.float64))
            grey[start : start + STRIP] = (strip - low) * (255 / (high - low)) + 0.5
    return grey
