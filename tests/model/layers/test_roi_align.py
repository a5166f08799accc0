"""RoIAlign, against torchvision's MultiScaleRoIAlign; the level rule by hand; alignment on a linear ramp."""

from __future__ import annotations

import math
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, roi_align
from torchvision.ops.poolers import LevelMapper

from model import Preset
from model.layers.roi_align import multiscale_roi_align, roi_align_by_gathering, roi_levels

PRESET = Preset()


def features(generator: torch.Generator, batch: int, height: int, width: int) -> list[Tensor]:
    """P2..P6 of noise."""
    return [
        torch.randn(batch, 5, math.ceil(height / s), math.ceil(width / s), generator=generator)
        for s in (4, 8, 16, 32, 64)
    ]


def rois(generator: torch.Generator, number: int, batch: int, height: int, width: int) -> Tensor:
    """Boxes of all scales, the images mixed; some reach over the edge."""
    side = torch.exp(torch.rand(number, 2, generator=generator) * math.log(max(height, width)))
    corner = torch.rand(number, 2, generator=generator) * torch.tensor([width, height])
    image = torch.randint(batch, (number, 1), generator=generator).float()
    return torch.cat([image, corner, corner + side], 1)


@pytest.mark.parametrize("size", [7, 14])
def test_pooling_is_torchvisions(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    batch, height, width = 3, 480, 640
    maps, boxes = features(generator, batch, height, width), rois(generator, 300, batch, height, width)
    boxes[:3, 1:] = torch.tensor([[0, 0, width, height], [0, 0, 1e-2, 1e-2], [5, 5, 5, 5]])
    assert roi_levels(boxes[:, 1:], PRESET).unique().tolist() == [0, 1, 2, 3]

    pooler = MultiScaleRoIAlign(["0", "1", "2", "3"], size, 2)
    for image in range(batch):
        mine = boxes[:, 0] == image
        named = OrderedDict((str(i), f[image : image + 1]) for i, f in enumerate(maps))
        expected = pooler(named, [boxes[mine, 1:]], [(height, width)])
        torch.testing.assert_close(multiscale_roi_align(maps, boxes, size, PRESET)[mine], expected, rtol=0, atol=1e-6)


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([1, 7, 14]),
    sampling=st.integers(1, 3),
    aligned=st.booleans(),
    stretch=st.floats(0, 300),
)
@settings(deadline=None, max_examples=60)
def test_gathering_is_roi_align(seed: int, size: int, sampling: int, aligned: bool, stretch: float) -> None:
    """Boxes inside, across the border, far outside, of no size and the wrong way round."""
    generator = torch.Generator().manual_seed(seed)
    feature = torch.randn(3, 6, 9, 13, generator=generator)
    boxes = (torch.rand(40, 4, generator=generator) - 0.3) * stretch
    boxes[20:, 2:] = boxes[20:, :2] + boxes[20:, 2:].abs()
    boxes[0] = torch.tensor([0, 0, 13 * 8, 9 * 8])
    image = torch.randint(3, (40, 1), generator=generator).float()
    given_rois = torch.cat([image, boxes], 1)
    expected = roi_align(feature, given_rois, (size, size), 1 / 8, sampling, aligned)
    found = roi_align_by_gathering(feature, given_rois, size, 1 / 8, sampling, aligned)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_no_rois() -> None:
    maps = features(torch.Generator().manual_seed(1), 2, 64, 64)
    for exact in (True, False):
        assert multiscale_roi_align(maps, torch.zeros(0, 5), 7, PRESET, exact).shape == (0, 5, 7, 7)


@given(st.lists(st.tuples(*[st.floats(0, 1400, width=32)] * 4), min_size=1, max_size=30))
@settings(deadline=None, max_examples=200)
def test_levels_are_torchvisions_and_the_formulas(corners: list[tuple[float, ...]]) -> None:
    boxes = torch.tensor([[min(a, c), min(b, d), max(a, c), max(b, d)] for a, b, c, d in corners])
    found = roi_levels(boxes, PRESET)
    assert torch.equal(found, LevelMapper(2, 5)([boxes]))
    for (x0, y0, x1, y1), level in zip(boxes.double().tolist(), found.tolist(), strict=True):
        area = (x1 - x0) * (y1 - y0)
        exact = 4 + math.log2(math.sqrt(area) / 224) if area else -math.inf
        if abs(exact - round(max(exact, 0))) > 1e-5:  # not where float32 and the epsilon decide
            assert level == np.clip(math.floor(max(exact, 0)), 2, 5) - 2


@pytest.mark.parametrize(
    ("side", "level"),
    [(0.5, 0), (111.9, 0), (112, 1), (112.1, 1), (223.9, 1), (224, 2), (447.9, 2), (448, 3), (896, 3), (1333, 3)],
)
@pytest.mark.parametrize("elongation", [1, 4])
def test_levels_change_at_112_224_448(side: float, level: int, elongation: int) -> None:
    boxes = torch.tensor([[16.0, 8.0, 16 + side * elongation, 8 + side / elongation]])
    assert roi_levels(boxes, PRESET).tolist() == [level]


def test_an_epsilon_lifts_what_rounding_left_below_a_level() -> None:
    boxes = torch.tensor([[0.0, 0.0, 223.9999, 223.9999]])
    assert torch.equal(roi_levels(boxes, PRESET), LevelMapper(2, 5)([boxes]))
    assert roi_levels(boxes, PRESET).tolist() == [2]
    assert roi_levels(boxes, PRESET.replace(roi_level_eps=0.0)).tolist() == [1]


def test_the_level_rule_is_the_presets() -> None:
    boxes = torch.tensor([[0.0, 0.0, 100.0, 100.0], [0.0, 0.0, 200.0, 200.0], [0.0, 0.0, 400.0, 400.0]])
    assert roi_levels(boxes, PRESET).tolist() == [0, 1, 2]
    assert roi_levels(boxes, PRESET.replace(roi_canonical_size=112.0)).tolist() == [1, 2, 3]
    assert roi_levels(boxes, PRESET.replace(roi_canonical_level=5)).tolist() == [1, 2, 3]


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling", [0, 2])
def test_pooling_a_linear_ramp_gives_the_ramp_at_the_bin_centres(aligned: bool, sampling: int) -> None:
    """Bilinear interpolation of a linear map is exact, so every bin has a closed form.

    A feature cell stands at its index where not aligned, at its index + 1/2 where aligned.
    """
    boxes = torch.tensor(
        [[0, 40.0, 60.0, 110.0, 141.0], [0, 33.3, 47.7, 160.0, 200.0], [0, 70, 50, 340, 330], [0, 64, 64, 512, 540]]
    )
    assert roi_levels(boxes[:, 1:], PRESET).tolist() == [0, 1, 2, 3]
    ramps = []
    for stride in (4, 8, 16, 32):
        y, x = torch.meshgrid(*[torch.arange(640 // stride).float()] * 2, indexing="ij")
        ramps.append((2 * x + 3 * y + stride)[None, None])
    found = multiscale_roi_align(ramps, boxes, 7, PRESET.replace(roi_aligned=aligned, roi_sampling=sampling))
    for level, (_, x0, y0, x1, y1) in enumerate(boxes.tolist()):
        stride, bins = 4 << level, (torch.arange(7) + 0.5) / 7
        x = (x0 + bins * (x1 - x0)) / stride - 0.5 * aligned
        y = (y0 + bins * (y1 - y0)) / stride - 0.5 * aligned
        expected = 2 * x[None, :] + 3 * y[:, None] + stride
        torch.testing.assert_close(found[level, 0], expected, rtol=1e-4, atol=1e-3)
