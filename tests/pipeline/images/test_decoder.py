"""Every kind of image becomes RGB, and every kind of damage becomes a reason."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.images import PIXELS, assert_pixels_or_a_reason, decoded, deep_png, stored

from pipeline.images import ImageError, cropper, open_image, to_rgb


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
def test_sixteen_bits_are_scaled_from_minimum_and_maximum(kind: str) -> None:
    values = np.linspace(1000, 5000, 600).round().astype(np.uint16).reshape(20, 30)
    got = decoded(stored(Image.fromarray(values), kind))
    exact = (values.astype(float) - 1000) * 255 / 4000
    assert np.abs(got[:, :, 0] - exact).max() <= 0.5 + 1e-9
    assert (got[:, :, 0].min(), got[:, :, 0].max()) == (0, 255)
    assert (got[:, :, :1] == got).all()


def test_flat_sixteen_bit_image_is_black() -> None:
    assert not decoded(stored(Image.fromarray(np.full((5, 5), 777, np.uint16)), "PNG")).any()


def test_the_first_of_several_frames_is_used() -> None:
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
def test_a_file_that_cannot_be_read_gives_a_reason(data: bytes, kind: str) -> None:
    with pytest.raises(ImageError, match=f"^{kind}: "):
        decoded(data)


def test_a_bomb_is_refused_from_its_header_alone() -> None:
    bomb = stored(Image.new("1", (15_000, 15_000)), "PNG")
    assert len(bomb) < 200_000
    with pytest.raises(ImageError, match="TooManyPixels: 15000x15000"):
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
def test_a_crop_has_the_pixels_of_the_whole_image(kind: str, data: st.DataObject) -> None:
    whole = to_rgb(open_image(STORED[kind], 10**6))
    height, width = whole.shape[:2]
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    right, bottom = data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    crop = cropper(open_image(STORED[kind], 10**6))
    assert np.array_equal(crop((left, top, right, bottom)), whole[top:bottom, left:right])


def test_damage_is_found_before_the_first_crop() -> None:
    cut = stored(Image.fromarray(PIXELS).resize((300, 200)), "JPEG")[:2000]
    with pytest.raises(ImageError, match=r"^DamagedImage: "):
        cropper(open_image(cut, 10**6))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_give_pixels_or_a_reason_and_nothing_else(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "TIFF", "GIF", "WEBP", "deep"]))
    deep = deep_png(PIXELS.astype(np.uint16) * 200)
    assert_pixels_or_a_reason(data, deep if kind == "deep" else stored(Image.fromarray(PIXELS), kind))
