"""TIFF files of several channels and of every depth follow the mapping that `pipeline.images.tiff` states."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.faults.fuzz import stored_array as stored
from support.images import assert_pixels_or_a_reason, decoded

from pipeline.images import ImageError, cropper, open_image, tiff

RANDOM = np.random.default_rng(0)
DEEP = RANDOM.integers(100, 4000, (5, 20, 30), np.uint16)  # channels, rows, columns
DEEP[1] //= 7  # a dimmer stain
COLOUR = np.ascontiguousarray(DEEP[:3].transpose(1, 2, 0))
BLACK = np.zeros((20, 30), np.uint8)


def scaled(values: np.ndarray, low: float | None = None, high: float | None = None) -> np.ndarray:
    low, high = float(values.min() if low is None else low), float(values.max() if high is None else high)
    return np.floor((values.astype(np.float64) - low) / (high - low) * 255 + 0.5).astype(np.uint8)


def each(*channels: np.ndarray) -> np.ndarray:
    """Each channel from its own minimum to its own maximum, as red, green and blue."""
    return np.dstack([scaled(c) for c in channels])


@pytest.mark.parametrize(
    "options", [{}, {"compression": "lzw", "predictor": True}, {"tile": (16, 16), "compression": "zlib"}]
)
def test_deep_colour_keeps_its_hue(options: dict) -> None:
    expected = scaled(COLOUR, COLOUR.min(), COLOUR.max())
    assert np.array_equal(decoded(stored(COLOUR, photometric="rgb", **options)), expected)
    planes = stored(DEEP[:3], photometric="rgb", planarconfig="separate", **options)
    assert np.array_equal(decoded(planes), expected)
    alpha = np.dstack([COLOUR, np.full((20, 30), 65535, np.uint16)])
    with_alpha = stored(alpha, photometric="rgb", extrasamples=["unassalpha"], **options)
    assert np.array_equal(decoded(with_alpha), expected)


@pytest.mark.parametrize(
    "options",
    [
        {"imagej": True, "metadata": {"axes": "CYX"}},
        {"ome": True, "metadata": {"axes": "CYX"}},
        {"ome": True, "metadata": {"axes": "CYX"}, "compression": "lzw", "tile": (16, 16), "bigtiff": True},
        {"metadata": {"axes": "CYX"}, "photometric": "minisblack"},
        {"photometric": "minisblack", "planarconfig": "separate"},
    ],
)
def test_channels_are_red_green_and_blue_each_with_its_own_range(options: dict) -> None:
    assert np.array_equal(decoded(stored(DEEP, **options)), each(*DEEP[:3]))
    assert np.array_equal(decoded(stored(DEEP[:3], **options)), each(*DEEP[:3]))
    two = decoded(stored(DEEP[:2], **options))
    assert np.array_equal(two, np.dstack([scaled(DEEP[0]), scaled(DEEP[1]), BLACK]))


def test_interleaved_channels() -> None:
    five = np.ascontiguousarray(DEEP.transpose(1, 2, 0))
    options = {"photometric": "minisblack", "planarconfig": "contig"}
    assert np.array_equal(decoded(stored(five, **options)), each(*DEEP[:3]))
    eight = (five >> 4).astype(np.uint8)
    assert np.array_equal(decoded(stored(eight, **options)), eight[..., :3])
    assert np.array_equal(decoded(stored(eight[..., :2], **options)), np.dstack([eight[..., :2], BLACK]))


def test_the_first_time_and_focus_are_used() -> None:
    stack = RANDOM.integers(0, 4000, (2, 3, 2, 20, 30), np.uint16)
    expected = np.dstack([scaled(stack[0, 0, 0]), scaled(stack[0, 0, 1]), BLACK])
    for options in ({"imagej": True, "metadata": {"axes": "TZCYX"}}, {"ome": True, "metadata": {"axes": "TZCYX"}}):
        assert np.array_equal(decoded(stored(stack, **options)), expected)
    other_order = np.ascontiguousarray(stack.transpose(2, 0, 1, 3, 4))
    assert np.array_equal(decoded(stored(other_order, ome=True, metadata={"axes": "CTZYX"})), expected)


def test_pages_without_a_name_are_frames() -> None:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        for page in DEEP:
            file.write(page, photometric="minisblack", metadata=None)
    assert np.array_equal(decoded(buffer.getvalue()), each(DEEP[0], DEEP[0], DEEP[0]))


def test_grey_is_inverted_where_white_is_zero() -> None:
    expected = 255 - each(DEEP[0], DEEP[0], DEEP[0])
    assert np.array_equal(decoded(stored(DEEP[0], photometric="miniswhite")), expected)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_one_channel_of_any_kind(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8"]))
    height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    if kind[0] == "f":
        values = (random.normal(size=(height, width)) * 100).astype(kind)
    else:
        info = np.iinfo(kind)
        values = random.integers(info.min, info.max, (height, width), kind, endpoint=True)
    options = {"compression": data.draw(st.sampled_from([None, "lzw", "zlib", "packbits", "zstd"]))}
    if data.draw(st.booleans()):
        options["tile"] = (16, 16)
    if options["compression"] != "packbits" and kind != "f2":
        options["predictor"] = bool(options["compression"]) and data.draw(st.booleans())
    options["byteorder"] = data.draw(st.sampled_from("<>"))
    got = decoded(stored(values, photometric="minisblack", **options))
    flat = values.min() == values.max()
    expected = values if kind == "u1" else np.zeros_like(values, np.uint8) if flat else scaled(values)
    assert np.array_equal(got, np.repeat(expected[:, :, None], 3, axis=2))


@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
@pytest.mark.parametrize("odd", [[np.nan], [np.inf], [-np.inf], [np.inf, -np.inf, np.nan]])
def test_values_that_are_not_finite_are_ignored_in_scaling(kind: str, odd: list[float]) -> None:
    values = (RANDOM.normal(size=(20, 30)) * 100 - 700).astype(kind)
    expected = scaled(values[1:])
    values[0] = np.resize(odd, 30)
    shown = np.where(values[:1] == np.inf, 255, 0)
    got = decoded(stored(values, photometric="minisblack"))
    assert np.array_equal(got, np.repeat(np.vstack([shown, expected])[:, :, None], 3, axis=2))
    assert not decoded(stored(values[:1], photometric="minisblack")).any()
    colour = np.dstack([values] * 3)
    colour[..., 1] = np.nan
    assert np.array_equal(decoded(stored(colour, photometric="rgb"))[..., 2], got[..., 2])


def test_ordinary_files_are_left_to_pillow() -> None:
    photo = Image.fromarray(RANDOM.integers(0, 256, (20, 30, 3), np.uint8))
    for mode in ("1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "YCbCr"):
        buffer = io.BytesIO()
        photo.convert("RGBA" if mode == "LA" else mode).convert(mode).save(buffer, "TIFF")
        assert tiff.open_multichannel(buffer.getvalue()) is None, mode
    assert np.array_equal(decoded(stored(np.asarray(photo), photometric="rgb", bigtiff=True)), np.asarray(photo))


@pytest.mark.parametrize("options", [{"imagej": True}, {"ome": True, "tile": (16, 16), "compression": "zlib"}])
def test_a_crop_has_the_pixels_of_the_whole_image(options: dict) -> None:
    data = stored(DEEP, metadata={"axes": "CYX"}, **options)
    crop = cropper(open_image(data, 10**6))
    assert np.array_equal(crop((3, 5, 21, 14)), decoded(data)[5:14, 3:21])


def test_other_files_that_metadata_names_are_never_opened(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("a.ome.tif", DEEP[0], ome=True, metadata={"axes": "YX"})
    whole = stored(DEEP[:2], ome=True, metadata={"axes": "CYX"})
    uuid = b'<TiffData IFD="1"><UUID FileName="a.ome.tif">urn:uuid:1</UUID></TiffData>'
    description = tifffile.TiffFile(io.BytesIO(whole)).pages[0].description.encode()
    naming = description.replace(b"</Pixels>", uuid + b"</Pixels>")
    pages = io.BytesIO()
    with tifffile.TiffWriter(pages) as file:
        for channel, text in zip(DEEP[:2], (naming, None), strict=True):
            file.write(channel, description=text, metadata=None, photometric="minisblack")
    assert np.array_equal(decoded(pages.getvalue()), each(DEEP[0], DEEP[0], DEEP[0]))


@pytest.mark.parametrize("compression", [None, "lzw", "zlib"])
def test_a_file_that_is_cut_off_gives_a_reason(compression: str | None) -> None:
    data = stored(RANDOM.integers(0, 65535, (200, 300), np.uint16), compression=compression)
    with pytest.raises(ImageError, match=r"^DamagedImage: "):
        decoded(data[: len(data) // 2])


def test_many_interleaved_channels_count_as_pixels() -> None:
    wide = np.zeros((100, 100, 50), np.uint16)
    data = stored(wide, photometric="minisblack", planarconfig="contig", compression="zlib")
    assert decoded(data).shape == (100, 100, 3)
    with pytest.raises(ImageError, match=r"^TooManyPixels: 100x100 of 1000000 bytes"):
        open_image(data, 50_000)
    with pytest.raises(ImageError, match=r"^TooManyPixels: 100x100 is over the limit of 5000 pixels"):
        open_image(data, 5000)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_bytes_give_pixels_or_a_reason_and_nothing_else(data: st.DataObject) -> None:
    options = data.draw(st.sampled_from([{"imagej": True}, {"ome": True}, {"compression": "lzw"}]))
    whole = stored(DEEP[:2], metadata={"axes": "CYX"}, photometric="minisblack", **options)
    assert_pixels_or_a_reason(data, whole, least=4)
