"""JPEG files decoded on the device of the network: by nvJPEG on an NVIDIA GPU, by libjpeg-turbo elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from pipeline.decode import BadImageError, open_image, to_rgb


def decode_jpegs(files: Sequence[bytes], device: torch.device) -> list[Tensor | str]:
    """All pixels of each file, uint8 (H, W, 3) RGB on the device, or the error that befell it.

    A file that the device's decoder refuses is given to Pillow, which reads more kinds and knows what is wrong.
    Their pixels as such are within the limit already: `pipeline.decode` has read the headers.
    """
    if not files:
        return []
    data = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
    try:
        return [i.permute(1, 2, 0) for i in decode_jpeg(data, ImageReadMode.RGB, device)]
    except RuntimeError:
        return _singly(files, data, device)


def _singly(files: Sequence[bytes], data: Sequence[Tensor], device: torch.device) -> list[Tensor | str]:
    found: list[Tensor | str] = []
    for file, one in zip(files, data, strict=True):
        try:
            found.append(decode_jpeg([one], ImageReadMode.RGB, device)[0].permute(1, 2, 0))
        except RuntimeError:
            try:
                pixels = to_rgb(open_image(file, max_pixels=2**62))
                found.append(torch.from_numpy(pixels).to(device))
            except BadImageError as error:
                found.append(str(error))
    return found
