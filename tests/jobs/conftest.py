"""One job over good and bad images, of which most tests of `segment` start."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from support.commands import Segmented, segment


@pytest.fixture(scope="session")
def mixed(
    local_ray: None, quick: tuple, tmp_path_factory: pytest.TempPathFactory, small_nuclei: list[Path], photos: Path
) -> Segmented:
    """Five images that can be read and three that cannot, segmented once by the tiny network.

    Tests that change them take `again`.
    """
    folder, output = tmp_path_factory.mktemp("mixed"), tmp_path_factory.mktemp("out") / "masks"
    image = Image.open(small_nuclei[0]).convert("RGB")
    shutil.copy(small_nuclei[0], folder / "good.png")
    image.convert("L").save(folder / "grey.png")
    image.quantize(64).save(folder / "palette.png")
    image.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 200).save(folder / "sixteen.png")
    (folder / "truncated.jpg").write_bytes(next(photos.glob("*.jpg")).read_bytes()[:20_000])
    (folder / "zero.jpg").touch()
    (folder / "text.jpg").write_text("This is no picture.")
    return Segmented(folder, output, segment(folder, output, *quick))


@pytest.fixture
def again(mixed: Segmented, tmp_path: Path) -> Iterator[Segmented]:
    """The same images, which are put back afterwards, and a copy of the output: a test may change both."""
    kept = tmp_path / "kept"
    shutil.copytree(mixed.inputs, kept)  # with the times of change, by which a job recognises a file
    shutil.copytree(mixed.output, tmp_path / "out")
    yield Segmented(mixed.inputs, tmp_path / "out", mixed.record)
    shutil.rmtree(mixed.inputs)
    shutil.copytree(kept, mixed.inputs)


@pytest.fixture(scope="session")
def slides(local_ray: None, tmp_path_factory: pytest.TempPathFactory, nuclei: Path) -> Segmented:
    """An image of 700x512 pixels made of nuclei, a part of it with 16 bits and with ten channels, one that is cut off,
    and a small one; segmented once by the shipped network, in tiles of 256 pixels.
    """
    folder, output = tmp_path_factory.mktemp("slides"), tmp_path_factory.mktemp("out") / "masks"
    small = [p for p in sorted(nuclei.iterdir()) if Image.open(p).size == (256, 256)][:6]
    canvas = np.zeros((700, 512, 3), np.uint8)
    for i, path in enumerate(small[:4]):
        y, x = 256 * (i // 2), 256 * (i % 2)
        canvas[y : y + 256, x : x + 256] = np.array(Image.open(path).convert("RGB"))
    Image.fromarray(canvas).save(folder / "slide.tif", compression="tiff_lzw")
    part = canvas[:320, :256, :1].astype(np.uint16)  # two tiles
    Image.fromarray(part[..., 0] * 100).save(folder / "slide16.png")
    many = np.repeat(part, 10, axis=2)  # 20 bytes a pixel
    tifffile.imwrite(folder / "channels.tif", many, photometric="minisblack", planarconfig="contig", compression="zlib")
    (folder / "cut.tif").write_bytes((folder / "slide.tif").read_bytes()[:100_000])
    shutil.copy(small[4], folder / "small.png")
    return Segmented(folder, output, segment(folder, output, "--tile", 256, "--overlap", 64))
