"""JPEG files decoded on the device of the network: by nvJPEG on an NVIDIA GPU, by libjpeg-turbo elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from model.inference.memory import release_cached
from model.layers.transform import shrink
from model.preset import Preset
from pipeline.images.decoder import ImageError, open_image, to_rgb
from pipeline.storage import one_line

AT_ONCE = 256 << 20  # bytes of pixels decoded together: seven images of 12 megapixels, beside the network's own


def decode_jpegs(
    files: Sequence[bytes], sizes: Sequence[tuple[int, int]], preset: Preset, device: torch.device
) -> list[Tensor | str]:
    """The pixels of each file, no larger than the network wants them, or the error that befell it.

    A file that the device's decoder refuses, or has no memory for, is given to Pillow, which reads more kinds
    and knows what is wrong. Pixels as such are within the limit already: `pipeline.stages.decode` has read the headers.

    Args:
        sizes: height and width of each file.

    Returns:
        For each uint8 (h, w, 3) RGB as `model.layers.transform.shrink` leaves it, on the device or (Pillow's) on the
        CPU; or the row's error, `Class: reason`.
    """
    found: list[Tensor | str] = []
    for part in _parts(sizes):
        found += _decoded(files[part], preset, device)
    return found


def _parts(sizes: Sequence[tuple[int, int]]) -> Iterator[slice]:
    """The files that are decoded together, at least one at a time."""
    start, held = 0, 0
    for i, (height, width) in enumerate(sizes):
        held += 3 * height * width
        if held > AT_ONCE and i > start:
            yield slice(start, i)
            start, held = i, 3 * height * width
    yield slice(start, len(sizes))


def _decoded(files: Sequence[bytes], preset: Preset, device: torch.device) -> list[Tensor | str]:
    if not files:
        return []
    from torchvision.io import ImageReadMode, decode_jpeg  # seconds, which only an actor should take

    if device.type == "cuda":
        # nvJPEG writes on a stream of its own, which does not wait for what still reads memory it is given again.
        torch.cuda.synchronize(device)
    try:
        data = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
        return [shrink(i.permute(1, 2, 0), preset) for i in decode_jpeg(data, ImageReadMode.RGB, device)]
    except RuntimeError:
        pass  # and on from outside, since the exception's traceback keeps what had been decoded
    release_cached(device)
    if len(files) == 1:
        return [_by_pillow(files[0], preset)]
    return [one for file in files for one in _decoded([file], preset, device)]


def _by_pillow(file: bytes, preset: Preset) -> Tensor | str:
    try:
        return shrink(torch.from_numpy(to_rgb(open_image(file, max_pixels=2**62))), preset)
    except ImageError as error:
        return str(error)
    except (RuntimeError, MemoryError) as error:
        return f"DecodeError: {one_line(error)}"
