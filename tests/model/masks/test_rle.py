"""The RLE encoder equals pasting with PyTorch followed by pycocotools, byte for byte."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco
from torch import Tensor
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks, paste_masks_in_image

from model.masks import rle
from model.masks.paste_rules import PASTE_RULES
from model.masks.rle import encode, encode_with_area


def pasted(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float) -> np.ndarray:
    """Returns torchvision's masks of the whole image, uint8 (height, width, N) in Fortran order."""
    result = np.zeros((height, width, len(masks)), np.uint8, order="F")
    side = masks.shape[-1]
    for i in range(len(masks)):
        left, top, right, bottom = expand_boxes(boxes[i : i + 1], (side + 2) / side).to(torch.int64)[0].tolist()
        if left >= width or top >= height or right < 0 or bottom < 0:
            continue  # outside the image, where torchvision fails because its slices become negative
        one = paste_masks_in_image(masks[i : i + 1, None], boxes[i : i + 1], (height, width))
        result[:, :, i] = (one[0, 0] > threshold).numpy()
    return result


def counts(masks: np.ndarray) -> list[str]:
    return [rle["counts"].decode() for rle in coco.encode(masks)]


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Tensor, Tensor, int, int, float]:
    """Draws masks, boxes, an image size and a threshold, including cases where rounding decides."""
    side_of_image = st.one_of(st.integers(1, 6), st.integers(1, 60), st.integers(60, 200))
    height, width = draw(side_of_image), draw(side_of_image)
    threshold = draw(st.one_of(st.just(0.5), st.floats(0, 1)))
    number, side = draw(st.integers(1, 4)), draw(st.sampled_from([28, 28, 28, 14, 7, 1]))
    boxes, masks = [], []
    for _ in range(number):
        boxes.append([*draw(span(width)), *draw(span(height))])
        masks.append(draw(mask(side, threshold)))
    x0, x1, y0, y1 = torch.tensor(boxes, dtype=torch.float32).unbind(1)
    return torch.stack(masks), torch.stack([x0, y0, x1, y1], 1), height, width, threshold


@st.composite
def span(draw: st.DrawFn, extent: int) -> tuple[float, float]:
    """Draws start and end on an axis of `extent` pixels: inside, across an edge, outside, all of it, or reversed."""
    kind = draw(st.sampled_from(["inside", "anywhere", "all", "whole numbers", "backwards"]))
    if kind == "all":
        return 0.0, float(extent)
    if kind == "whole numbers":
        start = draw(st.integers(-extent, 2 * extent))
        return float(start), float(start + draw(st.integers(0, extent)))
    low, high = (0.0, float(extent)) if kind == "inside" else (-1.5 * extent, 2.5 * extent)
    start = draw(st.floats(low, high))
    length = draw(st.one_of(st.just(0.0), st.floats(0, 1), st.floats(0, high - start)))
    return (start + length, start) if kind == "backwards" else (start, start + length)


@st.composite
def mask(draw: st.DrawFn, side: int, threshold: float) -> Tensor:
    """One mask, float32 (side, side), in 0..1."""
    kind = draw(st.sampled_from(["blob", "noise", "constant", "at threshold", "checks", "empty", "full"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    y, x = np.mgrid[:side, :side] / side - rng.uniform(0.2, 0.8, (2, 1, 1))
    content = {
        "blob": 1 / (1 + np.exp(rng.uniform(5, 60) * (np.hypot(x, y * rng.uniform(0.5, 2)) - rng.uniform(0, 0.5)))),
        "noise": rng.uniform(0, 1, (side, side)),
        "constant": np.full((side, side), rng.uniform()),
        "at threshold": np.where(rng.uniform(size=(side, side)) < 0.9, threshold, 1.0),
        "checks": (np.indices((side, side)).sum(0) % 2).astype(float),
        "empty": np.zeros((side, side)),
        "full": np.ones((side, side)),
    }[kind]
    return torch.from_numpy(content.astype(np.float32))


@given(scenes())
@example((torch.ones(1, 28, 28), torch.tensor([[0.0, 0.0, 1.0, 1.0]]), 1, 1, 0.5))
@example(
    (torch.ones(1, 28, 28), torch.tensor([[0.0, 0.0, 40.0, 30.0]]), 30, 40, 0.0)
)  # runs join from column to column
@example((torch.ones(1, 28, 28), torch.tensor([[-0.9, -0.9, -0.1, -0.1]]), 5, 5, 0.1))  # truncated toward zero: inside
@example((torch.full((1, 28, 28), 0.5), torch.tensor([[2.0, 2.0, 9.0, 9.0]]), 12, 12, 0.5))  # nowhere above
@settings(deadline=None, max_examples=200)
def test_encode_is_torchvisions_paste_and_pycocotools_encode(scene: tuple[Tensor, Tensor, int, int, float]) -> None:
    masks, boxes, height, width, threshold = scene
    reference = pasted(masks, boxes, height, width, threshold)
    found, areas = encode_with_area(masks, boxes, height, width, threshold)
    assert found == counts(reference)
    assert found == encode(masks, boxes, height, width, threshold)
    rles = [{"size": [height, width], "counts": c} for c in found]
    assert areas == coco.area(rles).tolist()
    assert np.array_equal(coco.decode(rles), reference)


def test_a_dozen_megapixels() -> None:
    rng = np.random.default_rng(0)
    height, width = 3000, 4000
    masks = torch.from_numpy(rng.uniform(0, 1, (3, 28, 28)).astype(np.float32))
    boxes = torch.tensor([[0.0, 0.0, 4000.0, 3000.0], [-3.3, 1500.2, 812.7, 3000.0], [3990.5, 0.1, 4000.0, 2999.9]])
    assert encode(masks, boxes, height, width) == counts(pasted(masks, boxes, height, width, 0.5))


def test_the_string_of_known_runs() -> None:
    """Runs 8, 12, 6, 15 are `8<63` in COCO's own source: the delta begins with the fourth run."""
    column = torch.zeros(41)
    column[8:20] = column[26:41] = 1
    # A mask of 41 rows over a box that grows to 43 whole pixels, from -1 to 41: pasted without resampling.
    masks, boxes = column[None, :, None].expand(1, 41, 41), torch.tensor([[-0.1, -0.1, 40.5, 40.5]])
    assert encode(masks, boxes, 41, 1) == ["8<63"]


def test_empty_and_full_masks() -> None:
    box = torch.tensor([[0.0, 0.0, 20.0, 10.0]])
    for paste in ("torchvision", "detectron2"):
        assert encode_with_area(torch.zeros(1, 28, 28), box, 10, 20, 0.5, paste) == (string([200]), [0])
        assert encode_with_area(torch.ones(1, 28, 28), box, 10, 20, 0.0, paste) == (string([0, 200]), [200])


def string(runs: list[int]) -> list[str]:
    """pycocotools' string of runs."""
    return [coco.frPyObjects([{"counts": runs, "size": [1, sum(runs)]}], 1, sum(runs))[0]["counts"].decode()]


def from_ones(part: np.ndarray, left: int, top: int, height: int, width: int) -> list[str]:
    """Returns the string of a mask whose pixels all lie in one part of the image."""
    column, row = np.nonzero(part.T)
    ones = (column + left) * height + row + top
    ends = np.flatnonzero(np.diff(ones, append=height * width + 1) > 1)
    begins = np.concatenate([[0], ends[:-1] + 1])
    edges = np.stack([ones[begins], ones[ends] + 1], 1).ravel()
    runs = np.diff(np.concatenate([[0], edges, [height * width]])).tolist()
    return string(runs[:-1] if runs[-1] == 0 else runs)


def torchvision_part(mask: Tensor, box: Tensor, height: int, width: int) -> tuple[np.ndarray, int, int]:
    """Pastes a mask as torchvision does, but only inside its box. Returns bool pixels and their left and top."""
    padded, scale = expand_masks(mask[None, None], 1)
    x0, y0, x1, y1 = expand_boxes(box[None], scale).to(torch.int64)[0].tolist()
    values = torch.nn.functional.interpolate(padded, (y1 - y0 + 1, x1 - x0 + 1), mode="bilinear")[0, 0]
    left, top = max(x0, 0), max(y0, 0)
    return (values > 0.5).numpy()[top - y0 : height - y0, left - x0 : width - x0], left, top


@pytest.mark.parametrize("paste", ["torchvision", "detectron2"])
@given(st.floats(-300, 19_990), st.floats(-300, 19_990), st.floats(2, 500), st.floats(2, 19_000), st.booleans())
@example(0.3, 19_000.2, 700.6, 999.7, False)
@example(19_500.0, 0.0, 500.0, 20_000.0, False)
@example(100.7, 3.0, 199.4, 19_995.0, False)
@settings(deadline=None, max_examples=25)
def test_twenty_thousand_pixels_square(paste: str, x: float, y: float, short: float, long: float, lying: bool) -> None:
    size = (long, short) if lying else (short, long)
    coarse = torch.rand(1, 1, 5, 5, generator=torch.Generator().manual_seed(2))
    mask = torch.nn.functional.interpolate(coarse, (28, 28), mode="bilinear")[0]
    box = torch.tensor([x, y, x + size[0], y + size[1]])
    part = (torchvision_part if paste == "torchvision" else detectron2_part)(mask[0], box, 20_000, 20_000)
    expected = from_ones(*part, 20_000, 20_000) if part[0].any() else string([20_000 * 20_000])
    assert encode(mask, box[None], 20_000, 20_000, paste=paste) == expected


def detectron2(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float) -> np.ndarray:
    """Returns detectron2's masks of the whole image (CPU rule), uint8 (height, width, N) in Fortran order."""
    result = np.zeros((height, width, len(masks)), np.uint8, order="F")
    for i, (mask, box) in enumerate(zip(masks, boxes, strict=True)):
        part, left, top = detectron2_part(mask, box, height, width, threshold)
        result[top : top + part.shape[0], left : left + part.shape[1], i] = part
    return result


def detectron2_part(
    mask: Tensor, box: Tensor, height: int, width: int, threshold: float = 0.5
) -> tuple[np.ndarray, int, int]:
    """Pastes a mask as detectron2 does on a CPU, only near its box. Returns bool pixels and their left and top."""
    x0, y0, x1, y1 = box
    left, top = (max(int(v.floor()) - 1, 0) for v in (x0, y0))
    right, bottom = min(int(x1.ceil()) + 1, width), min(int(y1.ceil()) + 1, height)
    if right <= left or bottom <= top:
        return np.zeros((0, 0), bool), 0, 0
    x = (torch.arange(left, right, dtype=torch.float32) + 0.5 - x0) / (x1 - x0) * 2 - 1
    y = (torch.arange(top, bottom, dtype=torch.float32) + 0.5 - y0) / (y1 - y0) * 2 - 1
    grid = torch.stack([x[None].expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=2)
    values = torch.nn.functional.grid_sample(mask[None, None], grid[None], align_corners=False)
    return (values[0, 0] >= threshold).numpy(), left, top


@given(scene=scenes())
@settings(deadline=None, max_examples=150)
def test_detectron2s_rule(scene: tuple[Tensor, Tensor, int, int, float]) -> None:
    masks, boxes, height, width, threshold = scene
    threshold = float(np.float32(threshold))
    reference = detectron2(masks, boxes, height, width, threshold)
    found, areas = encode_with_area(masks, boxes, height, width, threshold, "detectron2")
    assert found == counts(reference)
    assert areas == reference.sum((0, 1), dtype=np.int64).tolist()


@given(
    seed=st.integers(0, 2**32 - 1), roughness=st.sampled_from([2, 4, 9, 28]), paste=st.sampled_from(list(PASTE_RULES))
)
@settings(deadline=None, max_examples=30)
def test_large_masks_where_crossings_are_computed(seed: int, roughness: int, paste: str) -> None:
    """Boxes of hundreds of pixels, across the edges of the image: smooth masks, noise, and noise about 0.5."""
    rng = torch.Generator().manual_seed(seed)
    height, width = (int(v) for v in torch.randint(200, 900, (2,), generator=rng))
    coarse = torch.rand(4, 1, roughness, roughness, generator=rng)
    coarse[2:] = 0.5 + (coarse[2:] - 0.5) * 1e-6
    masks = torch.nn.functional.interpolate(coarse, (28, 28), mode="bilinear")[:, 0].contiguous()
    corner = (torch.rand(4, 2, generator=rng) * 1.4 - 0.4) * torch.tensor([width, height])
    boxes = torch.cat([corner, corner + torch.rand(4, 2, generator=rng) * torch.tensor([width, height]) * 1.5], 1)
    reference = (pasted if paste == "torchvision" else detectron2)(masks, boxes, height, width, 0.5)
    assert encode(masks, boxes, height, width, paste=paste) == counts(reference)


@pytest.mark.parametrize("paste", list(PASTE_RULES))
def test_where_pytorch_rounds_in_an_unknown_way(paste: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks are then pasted by PyTorch inside their boxes: slower, but with the same strings."""
    assert rle._pytorch_rounds_once(paste) is not None  # the processors that CI runs on are known
    rng = torch.Generator().manual_seed(5)
    masks = torch.rand(20, 28, 28, generator=rng)
    corner = torch.rand(20, 2, generator=rng) * 300 - 50
    boxes = torch.cat([corner, corner + torch.rand(20, 2, generator=rng) * 250], 1)
    expected = encode_with_area(masks, boxes, 240, 320, paste=paste)
    monkeypatch.setattr(rle, "_pytorch_rounds_once", lambda paste: None)
    assert encode_with_area(masks, boxes, 240, 320, paste=paste) == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_tensors_of_other_types(dtype: torch.dtype) -> None:
    masks = torch.rand(3, 28, 28, generator=torch.Generator().manual_seed(2)).to(dtype)
    boxes = torch.tensor([[3, 4, 40, 30], [0, 0, 9, 9], [20, 5, 64, 48]]).to(dtype)
    assert encode(masks, boxes, 48, 64) == counts(pasted(masks.float(), boxes.float(), 48, 64, 0.5))


def test_numpy_and_tensors_alike() -> None:
    rng = np.random.default_rng(1)
    masks = rng.uniform(0, 1, (5, 28, 28)).astype(np.float32)
    boxes = np.array([[3, 4, 40, 30]] * 5, np.float32) + rng.uniform(-2, 2, (5, 4)).astype(np.float32)
    expected = counts(pasted(torch.from_numpy(masks), torch.from_numpy(boxes), 48, 64, 0.5))
    assert encode(masks, boxes, 48, 64) == encode(torch.from_numpy(masks), torch.from_numpy(boxes), 48, 64) == expected
