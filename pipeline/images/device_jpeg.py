"""Decodes JPEG files on the device of the network: with nvJPEG on an NVIDIA GPU, with libjpeg-turbo elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from model.inference.memory import release_cached
from model.layers.transform import shrink
from model.preset import Preset
from pipeline.images.decoder import ImageError, open_image, to_rgb
from pipeline.storage import one_line

MAX_BATCH_BYTES = 256 << 20  # of pixels decoded at once: seven images of 12 megapixels, next to the network's memory


def decode_jpegs(
    files: Sequence[bytes], sizes: Sequence[tuple[int, int]], preset: Preset, device: torch.device
) -> list[Tensor | str]:
    """Decodes JPEG files and shrinks them to the input size of the network.

    If the device's decoder refuses a file or runs out of memory, Pillow decodes it. Pillow reads more variants of JPEG
    and says what is wrong. The limit of pixels is not checked here: `pipeline.stages.decode` has checked the headers.

    Args:
        files: JPEG files.
        sizes: (height, width) of each file.
        preset: has the input size of the network.
        device: the device that decodes.

    Returns:
        For each file uint8 (h, w, 3) RGB as `model.layers.transform.shrink` returns it, on the device (on the CPU if
        Pillow decoded it); or the error of its row, `kind: reason`.
    """
    decoded: list[Tensor | str] = []
    for batch in _batches(sizes):
        decoded += _decode_batch(files[batch], preset, device)
    return decoded


def _batches(sizes: Sequence[tuple[int, int]]) -> Iterator[slice]:
    """Yields slices of files that fit in `MAX_BATCH_BYTES` together; a larger file is a batch by itself."""
    start, nbytes = 0, 0
    for i, (height, width) in enumerate(sizes):
        nbytes += 3 * height * width
        if nbytes > MAX_BATCH_BYTES and i > start:
            yield slice(start, i)
            start, nbytes = i, 3 * height * width
    yield slice(start, len(sizes))


def _decode_batch(files: Sequence[bytes], preset: Preset, device: torch.device) -> list[Tensor | str]:
    """Decodes files together. If that fails, decodes each by itself, and at last with Pillow."""
    if not files:
        return []
    from torchvision.io import ImageReadMode, decode_jpeg  # takes seconds to import; only the actor needs it

    if device.type == "cuda":
        # nvJPEG writes on another CUDA stream, which does not wait for kernels that still read recycled memory.
        torch.cuda.synchronize(device)
    try:
        data = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
        return [shrink(i.permute(1, 2, 0), preset) for i in decode_jpeg(data, ImageReadMode.RGB, device)]
    except RuntimeError:
        pass  # continues outside: the exception's traceback keeps the decoded images in memory
    release_cached(device)
    if len(files) == 1:
        return [_decode_with_pillow(files[0], preset)]
    return [image for file in files for image in _decode_batch([file], preset, device)]


def _decode_with_pillow(file: bytes, preset: Preset) -> Tensor | str:
    try:
        return shrink(torch.from_numpy(to_rgb(open_image(file, max_pixels=None))), preset)
    except ImageError as error:
        return str(error)
    except (RuntimeError, MemoryError) as error:
        return f"DecodeError: {one_line(error)}"
