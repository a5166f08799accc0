"""Every kind of image to RGB, and every kind of damage to a reason."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.faults.fuzz import chunk

from pipeline.images import ImageError, cropper, open_image, to_rgb

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def stored(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> np.ndarray:
    return to_rgb(open_image(data, 1_000_000))


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_lossless_formats_give_the_pixels_back(kind: str, options: dict) -> None:
    assert (decoded(stored(Image.fromarray(PIXELS), kind, **options)) == PIXELS).all()


def test_grey_is_repeated() -> None:
    grey = PIXELS[:, :, 0]
    assert (decoded(stored(Image.fromarray(grey), "PNG")) == grey[:, :, None]).all()


def test_alpha_is_dropped_and_a_palette_looked_up() -> None:
    rgba = np.dstack([PIXELS, PIXELS[:, :, :1]])
    assert (decoded(stored(Image.fromarray(rgba), "PNG")) == PIXELS).all()
    palette = Image.fromarray(PIXELS).quantize(16)
    assert (decoded(stored(palette, "PNG")) == np.asarray(palette.convert("RGB"))).all()
    assert (decoded(stored(palette, "GIF")) == np.asarray(palette.convert("RGB"))).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_stretched_from_minimum_to_maximum(kind: str) -> None:
    values = np.linspace(1000, 5000, 600).round().astype(np.uint16).reshape(20, 30)
    got = decoded(stored(Image.fromarray(values), kind))
    exact = (values.astype(float) - 1000) * 255 / 4000
    assert np.abs(got[:, :, 0] - exact).max() <= 0.5 + 1e-9
    assert (got[:, :, 0].min(), got[:, :, 0].max()) == (0, 255)
    assert (got[:, :, :1] == got).all()


ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]


def deep_png(values: np.ndarray, interlaced: bool = False, extra: bytes = b"") -> bytes:
    """A PNG of 16-bit samples (rows, columns, 2 to 4)."""
    passes = [values[y::dy, x::dx] for y, x, dy, dx in ADAM7] if interlaced else [values]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for part in passes if part.size for row in part)
    height, width, samples = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[samples], 0, 0, interlaced)
    chunks = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("samples", [2, 3, 4])
def test_sixteen_bit_colour_in_png_is_stretched_together_and_its_alpha_dropped(samples: int, interlaced: bool) -> None:
    values = np.random.default_rng(samples).integers(100, 4000, (20, 30, samples), np.uint16)
    values[..., -1] //= 1 if samples == 3 else 50  # alpha, which does not count
    channels = values[..., :3] if samples > 2 else values[..., :1]
    low, high = int(channels.min()), int(channels.max())
    exact = np.broadcast_to((channels.astype(float) - low) * 255 / (high - low), (20, 30, 3))
    transparent = chunk(b"tRNS", struct.pack(">HHH", *values[0, 0])) if samples == 3 else b""
    for extra in (b"", chunk(b"gAMA", struct.pack(">I", 45455)), transparent):
        data = deep_png(values, interlaced, extra)
        got = decoded(data)
        assert np.abs(got - exact).max() <= 0.5 + 1e-9
        assert np.array_equal(cropper(open_image(data, 600))((3, 5, 21, 14)), got[5:14, 3:21])
        with pytest.raises(ImageError, match=r"^TooManyPixels: 30x20 is over the limit of 599"):
            open_image(data, 599)
        for damaged in (data[: len(data) // 2], data[:300] + bytes(9) + data[309:]):
            with pytest.raises(ImageError, match=r"^DamagedImage: "):
                decoded(damaged)
            with pytest.raises(ImageError, match=r"^DamagedImage: "):
                cropper(open_image(damaged, 600))


def test_flat_sixteen_bit_image_is_black() -> None:
    assert not decoded(stored(Image.fromarray(np.full((5, 5), 777, np.uint16)), "PNG")).any()


def test_of_several_frames_the_first_counts() -> None:
    frames = [Image.fromarray(np.roll(PIXELS, shift, 2)).quantize(16) for shift in range(3)]
    first = np.asarray(frames[0].convert("RGB"))
    data = stored(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert np.array_equal(decoded(data), first)
    assert np.array_equal(cropper(open_image(data, 600))((3, 5, 21, 14)), first[5:14, 3:21])


def test_cmyk_jpeg() -> None:
    smooth = Image.fromarray(PIXELS).resize((90, 60), Image.Resampling.BICUBIC)
    got = decoded(stored(smooth.convert("CMYK"), "JPEG", quality=95))
    assert np.abs(got.astype(int) - np.asarray(smooth).astype(int)).mean() < 6


def test_exif_rotation_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decoded(stored(Image.fromarray(PIXELS), "JPEG", exif=exif)).shape == (20, 30, 3)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "NotAnImage"),
        (b"hello, I am text", "NotAnImage"),
        (b"<html><body>404</body></html>", "NotAnImage"),
        (b"%PDF-1.7", "NotAnImage"),
        (stored(Image.fromarray(PIXELS), "PNG")[:-40], "DamagedImage"),
        (stored(Image.fromarray(PIXELS).resize((300, 200)), "JPEG")[:2000], "DamagedImage"),
        (stored(Image.fromarray(PIXELS), "TIFF")[:100], "DamagedImage"),
        (b"\x89PNG\r\n\x1a\n" + b"nothing of the kind", "DamagedImage"),
        (stored(Image.fromarray(PIXELS).resize((2000, 2000)), "PNG"), "TooManyPixels"),
    ],
)
def test_what_cannot_be_read_says_why(data: bytes, kind: str) -> None:
    with pytest.raises(ImageError, match=f"^{kind}: "):
        decoded(data)


def test_a_bomb_is_refused_from_its_header_alone() -> None:
    bomb = stored(Image.new("1", (30_000, 30_000)), "PNG")
    assert len(bomb) < 200_000
    with pytest.raises(ImageError, match="TooManyPixels: 30000x30000"):
        open_image(bomb, 200_000_000)


STORED = {
    "grey": stored(Image.fromarray(PIXELS).convert("L"), "PNG"),
    "palette": stored(Image.fromarray(PIXELS).quantize(16), "PNG"),
    "alpha": stored(Image.fromarray(PIXELS).convert("RGBA"), "PNG"),
    "colour": stored(Image.fromarray(PIXELS), "TIFF"),
    "cmyk": stored(Image.fromarray(PIXELS).convert("CMYK"), "JPEG"),
    "deep colour": deep_png(PIXELS.astype(np.uint16) * 200 + 31),
    "16 bits": stored(Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 200 + 31), "TIFF"),
    "float": stored(Image.fromarray(PIXELS[..., 0].astype(np.float32) - 7.5), "TIFF"),
}


@pytest.mark.parametrize("kind", STORED)
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_parts_are_those_of_the_whole(kind: str, data: st.DataObject) -> None:
    whole = to_rgb(open_image(STORED[kind], 10**6))
    height, width = whole.shape[:2]
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    right, bottom = data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    crop = cropper(open_image(STORED[kind], 10**6))
    assert np.array_equal(crop((left, top, right, bottom)), whole[top:bottom, left:right])


def test_damage_is_found_before_the_first_part() -> None:
    cut = stored(Image.fromarray(PIXELS).resize((300, 200)), "JPEG")[:2000]
    with pytest.raises(ImageError, match=r"^DamagedImage: "):
        cropper(open_image(cut, 10**6))


def assert_pixels_or_a_reason(data: st.DataObject, whole: bytes, least: int = 0) -> None:
    """A file with some bytes changed and its end cut off, `least` bytes left: no other outcome, whatever is drawn."""
    file = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 8))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(least, len(file)))
    try:
        got = decoded(bytes(file[:cut]))
    except ImageError as error:
        assert ": " in str(error)
        assert "\n" not in str(error)
    else:
        assert (got.dtype, got.ndim) == (np.uint8, 3)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_give_pixels_or_a_reason_and_nothing_else(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "TIFF", "GIF", "WEBP", "deep"]))
    deep = deep_png(PIXELS.astype(np.uint16) * 200)
    assert_pixels_or_a_reason(data, deep if kind == "deep" else stored(Image.fromarray(PIXELS), kind))
