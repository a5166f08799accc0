"""The input transform, against torchvision's GeneralizedRCNNTransform and a plain bilinear resize."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform, _resize_image_and_masks

from model import Preset
from model.layers.transform import padded_size, resized_size, shrink, to_input

SIDES = st.one_of(st.integers(1, 40), st.integers(1, 2000), st.integers(1, 60_000))
INPUTS = st.sampled_from([(800, 1333), (320, 533), (256, 256), (640, 640), (512, 10_000), (7, 9), (1, 1)])
CPU = torch.device("cpu")


def torchvisions(preset: Preset) -> GeneralizedRCNNTransform:
    return GeneralizedRCNNTransform(preset.min_size, preset.max_size, list(preset.mean), list(preset.std)).eval()


@pytest.mark.slow
@given(SIDES, SIDES, INPUTS)
@settings(deadline=None, max_examples=80)
def test_resized_size_is_torchvisions(height: int, width: int, limits: tuple[int, int]) -> None:
    scale = min(limits[0] / min(height, width), limits[1] / max(height, width))
    assume(min(height, width) * scale >= 1)  # torchvision cannot resize to nothing; see the next test
    image = torch.empty(3, height, width, device="meta")  # a shape without pixels
    expected = _resize_image_and_masks(image, *limits)[0].shape[1:]
    assert resized_size(height, width, Preset(min_size=limits[0], max_size=limits[1])) == tuple(expected)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1, 1), (800, 800)), ((1, 5000), (1, 1333)), ((60_000, 3), (1333, 1)), ((3, 400), (9, 1333))],
)
def test_a_strip_keeps_at_least_one_pixel(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resized_size(*size, Preset()) == expected


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([32, 64, 128]))
def test_padding_is_the_next_multiple(height: int, width: int, step: int) -> None:
    padded = padded_size((height, width), Preset(pad_multiple=step))
    for side, before in zip(padded, (height, width), strict=True):
        assert side % step == 0
        assert 0 <= side - before < step


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("limits", [(800, 1333), (320, 533), (200, 210)])
def test_input_is_torchvisions_on_photos(pixels: dict[str, np.ndarray], limits: tuple[int, int], exact: bool) -> None:
    preset = Preset(min_size=limits[0], max_size=limits[1])
    for photo in pixels.values():
        size = resized_size(*photo.shape[:2], preset)
        found = to_input([torch.from_numpy(photo)], [size], preset, CPU, exact)
        expected, _ = torchvisions(preset)([torch.from_numpy(photo).permute(2, 0, 1).float() / 255])
        assert expected.image_sizes == [size]
        # Resizing first rounds differently: float32 positions up to 640 are off by some 1e-4 of a grey level.
        torch.testing.assert_close(found, expected.tensors, rtol=0, atol=1e-6 if exact else 5e-4)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (3, 400), (400, 3), (128, 96), (128, 128), (300, 500)])
def test_input_of_odd_shapes_is_torchvisions(size: tuple[int, int], exact: bool) -> None:
    preset = Preset(min_size=128, max_size=256, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    image = torch.randint(256, (*size, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = to_input([image], [resized_size(*size, preset)], preset, CPU, exact)
    expected, _ = torchvisions(preset)([image.permute(2, 0, 1).float() / 255])
    torch.testing.assert_close(found, expected.tensors, rtol=0, atol=1e-6 if exact else 5e-4)


def test_a_batch_is_its_images_and_zeros_after_them(pixels: dict[str, np.ndarray]) -> None:
    """Images of equal padded shape share a batch. The padding is zero, the mean colour."""
    preset = Preset(min_size=320, max_size=533)
    images = [torch.from_numpy(pixels["landscape"]), torch.from_numpy(pixels["square"][:452])]  # 320 x 426, 320 x 433
    sizes = [resized_size(*i.shape[:2], preset) for i in images]
    assert sizes[0] != sizes[1]
    assert padded_size(sizes[0], preset) == padded_size(sizes[1], preset)
    batch = to_input(images, sizes, preset, CPU)
    for row, image, (height, width) in zip(batch, images, sizes, strict=True):
        expected, _ = torchvisions(preset)([image.permute(2, 0, 1).float() / 255])
        torch.testing.assert_close(row, expected.tensors[0], rtol=0, atol=1e-6)
        assert not row[:, height:].any()
        assert not row[:, :, width:].any()


def bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear resizing by its definition, pixel centres at halves, without antialiasing; float64."""

    def weights(before: int, after: int) -> np.ndarray:
        matrix = np.zeros((after, before))
        for i in range(after):
            at = max((i + 0.5) * before / after - 0.5, 0)
            low = min(math.floor(at), before - 1)
            matrix[i, low] += 1 - (at - low)
            matrix[i, min(low + 1, before - 1)] += at - low
        return matrix

    rows, columns = weights(image.shape[0], height), weights(image.shape[1], width)
    return np.einsum("ih,hwc,jw->ijc", rows, image.astype(float), columns, optimize=True)


def test_shrink_is_the_float_resize_to_half_a_grey_level(pixels: dict[str, np.ndarray]) -> None:
    """Within half a grey level, plus the rounding of float32 positions up to 640."""
    preset = Preset(min_size=200, max_size=280)
    for photo in pixels.values():
        found = shrink(torch.from_numpy(photo), preset)
        assert found.dtype == torch.uint8
        assert tuple(found.shape) == (*resized_size(*photo.shape[:2], preset), 3)
        assert found.shape[0] < photo.shape[0]
        assert np.abs(found.numpy() - bilinear(photo, *found.shape[:2])).max() <= 0.51


def test_input_of_a_shrunk_image_is_within_a_grey_level(pixels: dict[str, np.ndarray]) -> None:
    preset = Preset(min_size=200, max_size=280)
    for photo in pixels.values():
        image, size = torch.from_numpy(photo), resized_size(*photo.shape[:2], preset)
        found = to_input([shrink(image, preset)], [size], preset, CPU)
        expected, _ = torchvisions(preset)([image.permute(2, 0, 1).float() / 255])
        level = 1 / 255 / torch.tensor(preset.std)[:, None, None]
        assert ((found - expected.tensors)[0].abs() <= level).all()


@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([(40, 60), (7, 9), (80, 80), (1, 1)]))
@settings(deadline=None, max_examples=200)
def test_shrink_never_enlarges(height: int, width: int, limits: tuple[int, int]) -> None:
    preset = Preset(min_size=limits[0], max_size=limits[1])
    image = torch.randint(256, (height, width, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = shrink(image, preset)
    assert found.shape[0] <= height
    assert found.shape[1] <= width
    wanted = resized_size(height, width, preset)
    if wanted[0] < height or wanted[1] < width:
        assert tuple(found.shape[:2]) == wanted
    else:
        assert torch.equal(found, image)


def test_shrink_leaves_a_small_image_alone() -> None:
    image: Tensor = torch.randint(256, (30, 50, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    assert torch.equal(shrink(image, Preset()), image)
