"""JPEG files decoded on the device of the network: the pixels are Pillow's, and damaged files give a reason."""

from __future__ import annotations

import io
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.io import decode_jpeg

from model import Preset
from model.layers.transform import resized_size, shrink
from pipeline.images.device_jpeg import decode_jpegs

CPU = torch.device("cpu")
WHOLE = Preset(min_size=10_000, max_size=10_000)  # no image is too large for this network
SMALL = Preset(min_size=100, max_size=150)


def sizes_of(files: list[bytes]) -> list[tuple[int, int]]:
    return [Image.open(io.BytesIO(file)).size[::-1] for file in files]


def test_pixels_equal_pillows_up_to_rounding(photos: Path) -> None:
    files = [p.read_bytes() for p in sorted(photos.glob("*.jpg"))]
    grey = io.BytesIO()
    Image.open(io.BytesIO(files[0])).convert("L").save(grey, "JPEG")
    files.append(grey.getvalue())
    for file, found in zip(files, decode_jpegs(files, sizes_of(files), WHOLE, CPU), strict=True):
        assert isinstance(found, torch.Tensor)
        expected = np.array(Image.open(io.BytesIO(file)).convert("RGB")).astype(int)
        assert found.shape == expected.shape
        assert np.abs(found.numpy() - expected).max() <= 4
        assert np.abs(found.numpy() - expected).mean() < 0.5


def test_a_bad_file_is_an_error_and_does_not_affect_the_others(photos: Path) -> None:
    good = sorted(photos.glob("*.jpg"))[0].read_bytes()
    cmyk = io.BytesIO()
    Image.open(io.BytesIO(good)).convert("CMYK").save(cmyk, "JPEG")
    files = [good, b"no picture", good[:500], cmyk.getvalue(), good]
    first, text, cut, inked, last = decode_jpegs(files, sizes_of([good]) * 5, WHOLE, CPU)
    assert isinstance(first, torch.Tensor)
    assert isinstance(inked, torch.Tensor)
    assert torch.equal(first, last)
    assert text.startswith("NotAnImage: ")
    assert cut.startswith("DamagedImage: ")


def test_a_large_image_is_shrunk_like_one_that_the_decode_stage_reads(photos: Path) -> None:
    files = [p.read_bytes() for p in sorted(photos.glob("*.jpg"))]
    for file, size, found in zip(files, sizes_of(files), decode_jpegs(files, sizes_of(files), SMALL, CPU), strict=True):
        assert isinstance(found, torch.Tensor)
        assert found.shape == (*resized_size(*size, SMALL), 3)
        expected = shrink(torch.from_numpy(np.array(Image.open(io.BytesIO(file)).convert("RGB"))), SMALL)
        assert (found.int() - expected.int()).abs().max() <= 4


class Device:
    """torchvision's decoder on a device with memory for `room` bytes of pixels that are alive at the same time."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.most, self.calls = 0, 0
        self.alive: list[weakref.ref[torch.Tensor]] = []

    def __call__(self, data: list[torch.Tensor], *how: object) -> list[torch.Tensor]:
        self.calls += 1
        held = sum(image.nbytes for there in self.alive if (image := there()) is not None)
        found = []
        for one in data:
            image = decode_jpeg([one], *how)[0]  # type: ignore[arg-type]
            held += image.nbytes
            if held > self.room:
                raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {image.nbytes} bytes")
            found.append(image)
            self.alive.append(weakref.ref(image))
        self.most = max(self.most, held)
        return found


def test_a_batch_is_decoded_only_as_far_as_it_fits(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [p.read_bytes() for p in sorted(photos.glob("*.jpg"))] * 2
    sizes = sizes_of(files)
    expected = decode_jpegs(files, sizes, SMALL, CPU)
    largest = max(3 * h * w for h, w in sizes)
    device = Device(room=3 * largest)
    monkeypatch.setattr("torchvision.io.decode_jpeg", device)
    monkeypatch.setattr("pipeline.images.device_jpeg.MAX_BATCH_BYTES", 3 * largest)
    found = decode_jpegs(files, sizes, SMALL, CPU)
    assert len(files) > 6
    assert largest < device.most <= 3 * largest
    assert device.calls <= len(files) / 2  # several files at a time, and no attempt fails
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_an_image_that_does_not_fit_on_the_device_is_decoded_by_pillow(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together the files do not fit. Alone all but the largest do, once the failed attempt has freed its pixels."""
    files = [p.read_bytes() for p in sorted(photos.glob("*.jpg"))]
    sizes = sizes_of(files)
    *_, below, largest = sorted({3 * h * w for h, w in sizes})
    monkeypatch.setattr("torchvision.io.decode_jpeg", Device(room=below))
    expected = [
        shrink(decode_jpeg(torch.frombuffer(bytearray(f), dtype=torch.uint8)).permute(1, 2, 0), SMALL) for f in files
    ]
    found = decode_jpegs(files, sizes, SMALL, CPU)
    for one, ours, size in zip(files, found, sizes, strict=True):
        assert isinstance(ours, torch.Tensor)
        if 3 * size[0] * size[1] == largest:
            whole = torch.from_numpy(np.array(Image.open(io.BytesIO(one)).convert("RGB")))
            assert torch.equal(ours, shrink(whole, SMALL))
        else:
            assert torch.equal(ours, expected[files.index(one)])
