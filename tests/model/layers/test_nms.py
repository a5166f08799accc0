"""NMS against its definition: brute force over all pairs, in exact arithmetic."""

from __future__ import annotations

from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from model.layers.nms import Candidates, nms_image_by_image, nms_of_many_images, nms_per_image

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
# The implementation for a CPU and the one for a GPU, which runs on a CPU too. A low limit makes several calls.
IMPLEMENTATIONS = {
    "image by image": nms_image_by_image,
    "many images": nms_of_many_images,
    "20 boxes per call": partial(nms_of_many_images, boxes_per_call=20),
}


def brute_force(
    boxes: np.ndarray, scores: np.ndarray, image: np.ndarray, group: np.ndarray, threshold: Fraction, count: int
) -> list[int]:
    """NMS by its definition, in exact arithmetic: boxes of whole coordinates, one at a time, all pairs."""
    corners = boxes.astype(int).tolist()  # whole numbers of Python, which are exact and faster than NumPy's
    places = list(zip(image.tolist(), group.tolist(), strict=True))
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in corners]
    kept: list[int] = []

    def overlaps(i: int, j: int) -> bool:
        a, b = corners[i], corners[j]
        width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        shared = max(width, 0) * max(height, 0)
        return shared * threshold.denominator > threshold.numerator * (areas[i] + areas[j] - shared)

    for i in np.argsort(-scores).tolist():
        if not any(places[i] == places[j] and overlaps(i, j) for j in kept):
            kept.append(i)
    return [i for n in range(max(image) + 1) for i in [k for k in kept if image[k] == n][:count]]


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


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("device", DEVICES)
@given(
    crowd=crowds(),
    threshold=st.sampled_from([Fraction(0), Fraction(1, 4), Fraction(1, 2), Fraction(7, 10)]),
    count=st.integers(1, 12),
)
@settings(deadline=None, max_examples=100)
def test_nms_is_the_brute_force(
    device: str, implementation: str, crowd: tuple[np.ndarray, ...], threshold: Fraction, count: int
) -> None:
    boxes, scores, image, group = crowd
    tensors = [torch.from_numpy(a).to(device) for a in (boxes.astype(np.float32), scores, image, group)]
    found = IMPLEMENTATIONS[implementation](Candidates(*tensors), float(threshold), count)
    assert torch.equal(nms_per_image(Candidates(*tensors), float(threshold), count), found)
    assert found.dtype == torch.int64
    assert found.tolist() == brute_force(boxes, scores, image, group, threshold, count)


@pytest.fixture(scope="module")
def large_crowd() -> tuple[tuple[np.ndarray, ...], list[int]]:
    """2600 boxes, scores, images and groups, and what brute force keeps: some seconds of Python, done once."""
    rng = np.random.default_rng(5)
    corner = rng.integers(0, 400, (2600, 2))
    boxes = np.concatenate([corner, corner + rng.integers(20, 120, (2600, 2))], 1)
    scores = (rng.permutation(2600) / 2600).astype(np.float32)
    image = np.sort(np.array([0] * 1400 + [2] * 1200))  # no box in image 1
    group = rng.integers(0, 5, 2600)
    expected = brute_force(boxes, scores, image, group, Fraction(1, 2), 300)
    assert len(expected) == 600  # so `limit` takes effect
    return (boxes.astype(np.float32), scores, image, group), expected


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("device", DEVICES)
def test_nms_of_a_large_crowd_is_the_brute_force(
    large_crowd: tuple[tuple[np.ndarray, ...], list[int]], device: str, implementation: str
) -> None:
    """Above 1000 boxes torchvision switches to one call per group."""
    arrays, expected = large_crowd
    tensors = [torch.from_numpy(a).to(device) for a in arrays]
    assert IMPLEMENTATIONS[implementation](Candidates(*tensors), 0.5, 300).tolist() == expected


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("device", DEVICES)
def test_nms_keeps_groups_apart_far_from_the_origin(device: str, implementation: str) -> None:
    """Many groups of many images must not shift boxes enough to change their overlap."""
    images, groups = 16, 80
    # 5005 / 15000 = 0.33367; float32 coordinates offset by 16 x 80 x 1351 would make it 1/3.
    pair = torch.tensor([[1200.0, 1200.0, 1300.0, 1300.05], [1200.0, 1250.0, 1300.0, 1350.0]])
    number = images * groups
    boxes = pair.repeat(number, 1).to(device)
    scores = torch.linspace(1, 0.1, 2 * number, device=device)
    image = torch.arange(images, device=device).repeat_interleave(2 * groups)
    group = torch.arange(groups, device=device).repeat_interleave(2).repeat(images)

    def nms(iou_threshold: float) -> torch.Tensor:
        return IMPLEMENTATIONS[implementation](Candidates(boxes, scores, image, group), iou_threshold, 10**6)

    assert len(nms(0.3335)) == number
    assert len(nms(0.3338)) == 2 * number


@pytest.mark.parametrize("device", DEVICES)
def test_nms_of_nothing(device: str) -> None:
    none = torch.zeros(0, dtype=torch.int64, device=device)
    empty = Candidates(torch.zeros(0, 4, device=device), torch.zeros(0, device=device), none, none)
    found = nms_per_image(empty, 0.5, 10)
    assert found.shape == (0,)
    assert found.dtype == torch.int64
