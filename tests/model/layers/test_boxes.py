"""Box arithmetic: against torchvision's box coder and clipping, and NMS against all pairs by brute force."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import clip_boxes_to_image, remove_small_boxes

from model.layers.boxes import at_least, best_after_nms, clip, decode, image_by_image, several_images_a_call

CLAMP = math.log(1000 / 16)
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
# A CPU's way through NMS and a GPU's, which runs on a CPU too; with few boxes a call there are several of them.
WAYS = {
    "image by image": image_by_image,
    "several images a call": several_images_a_call,
    "20 boxes a call": partial(several_images_a_call, at_once=20),
}


def boxes_in(generator: torch.Generator, count: int, side: float) -> Tensor:
    """Random boxes, a tenth of them beyond the corner (side, side)."""
    corner = torch.rand(count, 2, generator=generator) * side * 1.1
    return torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * side / 3], 1)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
@pytest.mark.parametrize("spread", [0.5, 5.0, 100.0])  # the last drives many exponents into the clamp
def test_decode_is_torchvisions(weights: tuple[float, ...], spread: float) -> None:
    generator = torch.Generator().manual_seed(1)
    reference = boxes_in(generator, 500, 800)
    deltas = torch.randn(500, 4, generator=generator) * spread
    expected = BoxCoder(weights, CLAMP).decode(deltas, [reference])[:, 0]
    torch.testing.assert_close(decode(deltas, reference, weights, CLAMP), expected, rtol=1e-6, atol=1e-4)


def test_decode_keeps_leading_dimensions() -> None:
    generator = torch.Generator().manual_seed(2)
    reference, deltas = boxes_in(generator, 60, 800), torch.randn(60, 4, generator=generator)
    expected = BoxCoder((1.0, 1.0, 1.0, 1.0), CLAMP).decode(deltas, [reference])[:, 0].view(3, 4, 5, 4)
    found = decode(deltas.view(3, 4, 5, 4), reference.view(3, 4, 5, 4), (1, 1, 1, 1), CLAMP)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-4)


def test_decode_of_zero_deltas_is_the_reference() -> None:
    reference = torch.tensor([[8.0, 16.0, 24.0, 64.0]])
    assert torch.equal(decode(torch.zeros(1, 4), reference, (10, 10, 5, 5), CLAMP), reference)


def test_decode_clamps_the_size() -> None:
    found = decode(torch.tensor([[0.0, 0.0, 1e4, 1e4]]), torch.tensor([[0.0, 0.0, 16.0, 16.0]]), (1, 1, 1, 1), CLAMP)
    torch.testing.assert_close(found, torch.tensor([[-492.0, -492.0, 508.0, 508.0]]))  # 1000 px about (8, 8)


def test_clip_is_torchvisions_for_each_image_of_a_batch() -> None:
    generator = torch.Generator().manual_seed(3)
    sizes = torch.tensor([[100, 300], [250, 40], [1, 1]])
    boxes = torch.stack([boxes_in(generator, 200, 300) - 50 for _ in sizes])
    found = clip(boxes, sizes[:, None])
    for boxes_of, size, clipped in zip(boxes, sizes.tolist(), found, strict=True):
        assert torch.equal(clipped, clip_boxes_to_image(boxes_of, tuple(size)))


@pytest.mark.parametrize("side", [1e-3, 1e-2, 20.0])
def test_at_least_keeps_what_torchvision_keeps(side: float) -> None:
    generator = torch.Generator().manual_seed(4)
    boxes = torch.cat(
        [
            boxes_in(generator, 300, 100),
            torch.tensor([[5.0, 5, 5, 9], [5.0, 5, 9, 5], [0.0, 0, side, side], [9.0, 9, 2, 2]]),
        ]
    )
    assert torch.equal(at_least(boxes, side).nonzero()[:, 0], remove_small_boxes(boxes, side))


def brute_force(
    boxes: np.ndarray, scores: np.ndarray, image: np.ndarray, group: np.ndarray, threshold: Fraction, count: int
) -> list[int]:
    """NMS by its definition, in exact arithmetic: boxes of whole coordinates, one at a time, all pairs."""
    kept: list[int] = []
    for i in np.argsort(-scores):
        suppressed = False
        for j in kept:
            if image[i] != image[j] or group[i] != group[j]:
                continue
            width = min(boxes[i, 2], boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0])
            height = min(boxes[i, 3], boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1])
            shared = int(max(width, 0)) * int(max(height, 0))
            areas = [int(b[2] - b[0]) * int(b[3] - b[1]) for b in (boxes[i], boxes[j])]
            suppressed |= shared > threshold * (sum(areas) - shared)
        if not suppressed:
            kept.append(int(i))
    return [i for n in range(int(image.max()) + 1) for i in [k for k in kept if image[k] == n][:count]]


@st.composite
def crowds(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Boxes on a coarse grid (so that many overlap, touch or coincide), distinct scores, images, groups."""
    number = draw(st.integers(1, 40))
    corner = draw(hnp.arrays(np.int64, (number, 2), elements=st.integers(0, 12)))
    side = draw(hnp.arrays(np.int64, (number, 2), elements=st.integers(1, 12)))
    scores = np.array(draw(st.permutations(range(1, number + 1)))) / (number + 1)
    image = np.sort(draw(hnp.arrays(np.int64, number, elements=st.integers(0, 3))))
    group = draw(hnp.arrays(np.int64, number, elements=st.integers(0, 2)))
    return np.concatenate([corner, corner + side], 1), scores.astype(np.float32), image, group


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("device", DEVICES)
@given(
    crowd=crowds(),
    threshold=st.sampled_from([Fraction(0), Fraction(1, 4), Fraction(1, 2), Fraction(7, 10)]),
    count=st.integers(1, 12),
)
@settings(deadline=None, max_examples=300)
def test_nms_is_the_brute_force(
    device: str, way: str, crowd: tuple[np.ndarray, ...], threshold: Fraction, count: int
) -> None:
    boxes, scores, image, group = crowd
    tensors = [torch.from_numpy(a).to(device) for a in (boxes.astype(np.float32), scores, image, group)]
    found = WAYS[way](*tensors, float(threshold), count)
    assert torch.equal(best_after_nms(*tensors, float(threshold), count), found)
    assert found.dtype == torch.int64
    assert found.tolist() == brute_force(boxes, scores, image, group, threshold, count)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("device", DEVICES)
def test_nms_of_a_large_crowd_is_the_brute_force(device: str, way: str) -> None:
    """Past 1000 boxes torchvision takes another way, group by group."""
    rng = np.random.default_rng(5)
    corner = rng.integers(0, 400, (2600, 2))
    boxes = np.concatenate([corner, corner + rng.integers(20, 120, (2600, 2))], 1)
    scores = (rng.permutation(2600) / 2600).astype(np.float32)
    image = np.sort(np.array([0] * 1400 + [2] * 1200))  # no box in image 1
    group = rng.integers(0, 5, 2600)
    tensors = [torch.from_numpy(a).to(device) for a in (boxes.astype(np.float32), scores, image, group)]
    expected = brute_force(boxes, scores, image, group, Fraction(1, 2), 300)
    assert len(expected) == 600  # so `count` bites
    assert WAYS[way](*tensors, 0.5, 300).tolist() == expected


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("device", DEVICES)
def test_nms_keeps_groups_apart_far_from_the_origin(device: str, way: str) -> None:
    """Many groups of many images must not shift boxes enough to change their overlap."""
    images, groups = 16, 80
    # 5005 / 15000 = 0.33367; float32 coordinates offset by 16 x 80 x 1351 would make it 1/3.
    pair = torch.tensor([[1200.0, 1200.0, 1300.0, 1300.05], [1200.0, 1250.0, 1300.0, 1350.0]])
    number = images * groups
    boxes = pair.repeat(number, 1).to(device)
    scores = torch.linspace(1, 0.1, 2 * number, device=device)
    image = torch.arange(images, device=device).repeat_interleave(2 * groups)
    group = torch.arange(groups, device=device).repeat_interleave(2).repeat(images)
    assert len(WAYS[way](boxes, scores, image, group, 0.3335, 10**6)) == number
    assert len(WAYS[way](boxes, scores, image, group, 0.3338, 10**6)) == 2 * number


@pytest.mark.parametrize("device", DEVICES)
def test_nms_of_nothing(device: str) -> None:
    none = torch.zeros(0, dtype=torch.int64, device=device)
    found = best_after_nms(torch.zeros(0, 4, device=device), torch.zeros(0, device=device), none, none, 0.5, 10)
    assert found.shape == (0,)
    assert found.dtype == torch.int64
