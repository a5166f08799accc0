"""Anchors, against torchvision's generator for its conventions and closed forms for the others."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from model import Preset
from model.layers.anchors import cell_anchors

Pyramid = Callable[..., list[Tensor]]


def grids_of(height: int, width: int) -> list[tuple[int, int]]:
    """The five maps of a padded input: strides 4 to 32, and P6 as every second of P5."""
    grids = [(height // s, width // s) for s in (4, 8, 16, 32)]
    return [*grids, (math.ceil(grids[-1][0] / 2), math.ceil(grids[-1][1] / 2))]


def torchvisions(preset: Preset, grids: list[tuple[int, int]], height: int, width: int) -> list[Tensor]:
    images = ImageList(torch.empty(1, 3, height, width), [(height, width)])
    maps = [torch.empty(1, 1, *grid) for grid in grids]
    (anchors,) = AnchorGenerator(preset.anchor_sizes, preset.anchor_ratios)(images, maps)
    return list(anchors.split([r * c * preset.anchors_per_location for r, c in grids]))


@pytest.mark.parametrize("size", [(800, 1088), (1344, 800), (32, 32), (32, 1344), (64, 96), (416, 544)])
def test_all_levels_are_torchvisions(pyramid_anchors: Pyramid, size: tuple[int, int]) -> None:
    preset, grids = Preset(), grids_of(*size)
    found = pyramid_anchors(preset, grids, *size)
    for ours, reference in zip(found, torchvisions(preset, grids, *size), strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, reference)


@pytest.mark.parametrize("size", [(800, 1088), (416, 544)])
def test_p6_of_an_odd_p5_has_torchvisions_stride_or_the_nominal_one(
    pyramid_anchors: Pyramid, size: tuple[int, int]
) -> None:
    rows, columns = grids_of(*size)[-1]
    stride = (size[0] // rows, size[1] // columns)
    assert stride != (64, 64)  # 25 rows become 13, so the two conventions differ
    k = 3
    for setting, (sy, sx) in (("grid", stride), ("nominal", (64, 64))):
        last = pyramid_anchors(Preset(anchor_stride=setting), grids_of(*size), *size)[-1].view(rows, columns, k, 4)
        assert torch.equal(last[1, 0] - last[0, 0], torch.tensor([0.0, sy, 0.0, sy]).expand(k, 4))
        assert torch.equal(last[0, 1] - last[0, 0], torch.tensor([sx, 0.0, sx, 0.0]).expand(k, 4))


@pytest.mark.parametrize(
    ("sizes", "ratios"),
    [
        (((12.0,), (24.0,), (48.0,), (96.0,), (192.0,)), ((0.4, 1.0, 2.5),) * 5),
        (((32.0, 40.5, 50.8),) * 5, ((0.5, 1.0, 2.0),) * 5),
        (((20.0, 7.0), (33.0, 3.0), (64.0, 5.0), (8.0, 9.0), (1.0, 2.0)), ((0.9,), (0.1,), (1.0,), (3.0,), (7.0,))),
    ],
)
def test_other_sizes_and_ratios_are_torchvisions(
    pyramid_anchors: Pyramid, sizes: tuple[tuple[float, ...], ...], ratios: tuple[tuple[float, ...], ...]
) -> None:
    preset, grids = Preset(anchor_sizes=sizes, anchor_ratios=ratios), grids_of(96, 160)
    found = pyramid_anchors(preset, grids, 96, 160)
    for ours, reference in zip(found, torchvisions(preset, grids, 96, 160), strict=True):
        assert torch.equal(ours, reference)


def test_unrounded_anchors_have_their_area_ratio_and_centre() -> None:
    sizes, ratios = (32.0, 45.3), (0.5, 1.0, 2.0)
    cell = cell_anchors(sizes, ratios, rounding=False)
    expected = []
    for ratio in ratios:  # ordered by ratio, then by size
        for side in sizes:
            width, height = side / math.sqrt(ratio), side * math.sqrt(ratio)
            expected.append([-width / 2, -height / 2, width / 2, height / 2])
    torch.testing.assert_close(cell, torch.tensor(expected), rtol=1e-6, atol=0)
    assert torch.equal(cell.round(), cell_anchors(sizes, ratios, rounding=True))
    assert not torch.equal(cell.round(), cell)


def test_unrounded_anchors_stand_at_multiples_of_the_stride(pyramid_anchors: Pyramid) -> None:
    preset = Preset(anchor_rounding=False, anchor_stride="nominal")
    for level, anchors in enumerate(pyramid_anchors(preset, grids_of(96, 160), 96, 160)):
        rows, columns = grids_of(96, 160)[level]
        centre = ((anchors[:, :2] + anchors[:, 2:]) / 2).view(rows, columns, 3, 2)
        for row, column in ((0, 0), (rows - 1, 0), (0, columns - 1), (rows - 1, columns - 1)):
            expected = torch.tensor([column, row]).float() * (4 << level)
            torch.testing.assert_close(centre[row, column], expected.expand(3, 2), rtol=0, atol=1e-4)


def test_nine_anchors_on_the_finest_map_alone(pyramid_anchors: Pyramid) -> None:
    """The paper's architecture: three scales times three ratios per location, proposals from P2."""
    preset = Preset(rpn_levels=1, anchor_sizes=((128.0, 256.0, 512.0),), anchor_ratios=((0.5, 1.0, 2.0),))
    assert preset.anchors_per_location == 9
    grid = (152, 152)
    (anchors,) = pyramid_anchors(preset, [grid], 608, 608)
    assert len(anchors) == 152 * 152 * 9  # about 200 thousand, as the paper says of its images
    assert torch.equal(anchors, torchvisions(preset, [grid], 608, 608)[0])
