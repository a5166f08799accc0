"""`predict` returns valid detections for any image, in every precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.ops import box_iou

from model import Checkpoint, Detections, MaskRCNN, Preset, load_model
from model.layers.transform import shrink

Photos = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def checkpoint(tiny: Preset, tiny_torchvision: TorchvisionMaskRCNN) -> Checkpoint:
    return Checkpoint(tiny_torchvision.state_dict(), tiny, "", {})


@pytest.fixture(scope="module")
def exact_network(checkpoint: Checkpoint) -> MaskRCNN:
    return load_model(checkpoint, precision="fp32", device="cpu")


@pytest.fixture(scope="module", params=["fp32", "bf16", "fp16"])
def network(request: pytest.FixtureRequest, checkpoint: Checkpoint) -> MaskRCNN:
    """With a small input, few proposals and few detections: a CPU that has no half precision takes long for each."""
    small = {"min_size": 80, "max_size": 140, "rpn_post_nms": 60, "max_detections": 15}
    return load_model(checkpoint, precision=request.param, device="cpu", **small)


def assert_sane(found: Detections, height: int, width: int, preset: Preset) -> None:
    number = len(found)
    assert number <= preset.max_detections
    assert found.boxes.shape == (number, 4)
    assert found.scores.shape == found.labels.shape == (number,)
    assert found.masks.shape == (number, 28, 28)
    assert found.boxes.dtype == found.scores.dtype == found.masks.dtype == torch.float32
    assert found.labels.dtype == torch.int64
    for field in (found.boxes, found.scores, found.masks):
        assert field.isfinite().all()
    low, high = found.boxes[:, :2], found.boxes[:, 2:]
    assert (low >= 0).all()
    assert (low < high).all()
    assert (high <= torch.tensor([width, height]) * (1 + 1e-6)).all()
    assert (found.scores > preset.min_score).all()
    assert (found.scores <= 1).all()
    assert (found.scores.diff() <= 0).all()  # best first
    assert ((found.labels >= 1) & (found.labels <= len(preset.categories))).all()
    assert ((found.masks >= 0) & (found.masks <= 1)).all()


def test_photos(network: MaskRCNN, pixels: Photos) -> None:
    found = network.predict(list(pixels.values()))
    for image, detections in zip(pixels.values(), found, strict=True):
        assert len(detections) >= 10
        assert_sane(detections, *image.shape[:2], network.preset)


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400)), min_size=1, max_size=4), st.integers(0, 2**31))
@settings(deadline=None, max_examples=15)
def test_any_image(network: MaskRCNN, sizes: list[tuple[int, int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    for size, detections in zip(sizes, network.predict(images), strict=True):
        assert_sane(detections, *size, network.preset)


@pytest.mark.parametrize("size", [(1, 1), (3, 400), (400, 3), (1, 2000), (2000, 1)])
def test_specks_and_strips(network: MaskRCNN, pixels: Photos, size: tuple[int, int]) -> None:
    image = np.resize(pixels["landscape"], (*size, 3))
    (found,) = network.predict([image])
    assert_sane(found, *size, network.preset)


@pytest.mark.parametrize("size", [(300, 2), (60, 1), (2, 300)])
def test_a_strip_gives_the_same_every_time(network: MaskRCNN, size: tuple[int, int]) -> None:
    """Maps of one column, for which some CPU kernels read uninitialised memory (pytorch #169688)."""
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    (first,) = network.predict([image])
    assert_sane(first, *size, network.preset)
    for _ in range(6):
        for number in (500, 2000, 10_000, 100_000):  # memory for the next pass, full of NaN
            torch.full((number,), float("nan"))
        (again,) = network.predict([image])
        for field in ("boxes", "scores", "labels", "masks"):
            assert torch.equal(getattr(again, field), getattr(first, field))


def test_no_images(network: MaskRCNN) -> None:
    assert network.predict([]) == []


def test_nothing_found(checkpoint: Checkpoint, exact_network: MaskRCNN, pixels: Photos) -> None:
    """Empty fields of the right shapes and types, alone and beside an image in which something is found."""
    (all_found,) = exact_network.predict([pixels["landscape"]])
    blank = np.full_like(pixels["landscape"], 128)
    (of_blank,) = exact_network.predict([blank])
    best = [d.scores.max().item() if len(d) else 0.0 for d in (all_found, of_blank)]
    assert best[0] > best[1]
    network = load_model(checkpoint, precision="fp32", device="cpu", min_score=sum(best) / 2)
    for images, blanks in (([blank], [0]), ([blank, pixels["landscape"], blank], [0, 2])):
        found = network.predict(images)
        for i, detections in enumerate(found):
            assert (len(detections) == 0) == (i in blanks)
            assert_sane(detections, 480, 640, network.preset)


@pytest.mark.parametrize("override", ["rpn_min_size", "min_box"])
def test_nothing_large_enough(checkpoint: Checkpoint, pixels: Photos, override: str) -> None:
    """If no proposal or no box is left, torchvision returns empty fields, and so must we."""
    network = load_model(checkpoint, precision="fp32", device="cpu", **{override: 1e6})
    for detections in network.predict([pixels["landscape"], pixels["portrait"]]):
        assert len(detections) == 0
        assert_sane(detections, 480, 640, network.preset)


def test_limits_are_overrides(checkpoint: Checkpoint, pixels: Photos) -> None:
    def predict(**overrides: float) -> Detections:
        network = load_model(checkpoint, precision="fp32", device="cpu", **overrides)
        (found,) = network.predict([pixels["landscape"]])
        assert_sane(found, 480, 640, network.preset)
        return found

    full = predict(max_detections=500)
    assert len(full) > 60
    few = predict(max_detections=7)
    assert torch.equal(few.boxes, full.boxes[:7])
    bound = full.scores[20].item()
    assert len(predict(min_score=bound, max_detections=500)) == (full.scores > bound).sum()


def test_tensors_and_arrays_alike(exact_network: MaskRCNN, pixels: Photos) -> None:
    image = pixels["portrait"]
    array, tensor, fortran = exact_network.predict(
        [image, torch.from_numpy(image), np.asfortranarray(image)], batch_size=1
    )
    assert len(array) >= 10
    assert torch.equal(array.boxes, tensor.boxes)
    assert torch.equal(array.boxes, fortran.boxes)


def test_a_view_with_channels_reversed(exact_network: MaskRCNN, pixels: Photos) -> None:
    """`image[..., ::-1]` is the usual way to turn OpenCV's BGR into RGB."""
    bgr = pixels["portrait"][..., ::-1].copy()
    (found,) = exact_network.predict([bgr[..., ::-1]])
    (expected,) = exact_network.predict([pixels["portrait"]])
    assert torch.equal(found.boxes, expected.boxes)


def test_results_are_in_the_order_of_the_images(exact_network: MaskRCNN, pixels: Photos) -> None:
    names = ("wide", "square", "landscape", "portrait", "wide", "square", "small", "wide")
    alone = {name: exact_network.predict([pixels[name]])[0] for name in set(names)}
    for size in (1, 2, 8):
        together = exact_network.predict([pixels[name] for name in names], batch_size=size)
        for found, name in zip(together, names, strict=True):
            assert len(found) == len(alone[name])
            torch.testing.assert_close(found.boxes, alone[name].boxes, rtol=0, atol=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_neighbours_of_equal_shape_change_nothing(checkpoint: Checkpoint, pixels: Photos, precision: str) -> None:
    network = load_model(checkpoint, precision=precision, device="cpu")
    photo = pixels["landscape"]
    images = [photo, photo[:, ::-1], 255 - photo, np.roll(photo, 50, 0)]
    alone = [network.predict([image])[0] for image in images]
    for chosen in ([0, 1, 2, 3], [3, 0], [2, 2, 1]):
        for found, i in zip(network.predict([images[i] for i in chosen], batch_size=4), chosen, strict=True):
            assert len(found) == len(alone[i]) > 5
            assert torch.equal(found.labels, alone[i].labels)
            assert torch.equal(found.boxes, alone[i].boxes)
            assert torch.equal(found.masks, alone[i].masks)


def matched(found: Detections, reference: Detections) -> float:
    """Returns the share of reference detections that have a match: same label, IoU at least 0.5."""
    same = found.labels[:, None] == reference.labels
    return ((box_iou(found.boxes, reference.boxes) >= 0.5) & same).any(0).float().mean().item()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_finds_mostly_the_same(
    checkpoint: Checkpoint, exact_network: MaskRCNN, pixels: Photos, precision: str
) -> None:
    """Random boxes overlap at random, so NMS sometimes decides differently; with trained weights less often."""
    images = list(pixels.values())
    half = load_model(checkpoint, precision=precision, device="cpu")
    assert half.dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    references = exact_network.predict(images)
    shares = [matched(f, r) for f, r in zip(half.predict(images), references, strict=True)]
    assert np.mean(shares) > {"bf16": 0.75, "fp16": 0.9}[precision]


def test_shrunk_images_give_boxes_in_original_pixels(exact_network: MaskRCNN, pixels: Photos) -> None:
    images = [torch.from_numpy(pixels[n]) for n in ("landscape", "portrait", "square")]
    reduced = [shrink(image, exact_network.preset) for image in images]
    assert all(r.shape[0] < i.shape[0] for r, i in zip(reduced, images, strict=True))
    sizes = [tuple(image.shape[:2]) for image in images]
    for found, expected, size in zip(
        exact_network.predict(reduced, sizes=sizes), exact_network.predict(images), sizes, strict=True
    ):
        assert_sane(found, *size, exact_network.preset)
        assert found.boxes.max() > reduced[0].shape[1]  # well past the reduced image
        assert matched(found, expected) > 0.7
        torch.testing.assert_close(found.scores[:3], expected.scores[:3], rtol=0, atol=0.05)


@pytest.mark.parametrize(
    "image",
    [
        np.ones((30, 40, 3), np.float32),
        np.ones((30, 40, 3), np.uint16),
        torch.ones(30, 40, 3),
        np.ones((30, 40), np.uint8),
        np.ones((30, 40, 4), np.uint8),
        np.ones((3, 30, 40), np.uint8),
        np.ones((0, 5, 3), np.uint8),
        np.ones((5, 0, 3), np.uint8),
    ],
    ids=lambda image: f"{image.dtype} {tuple(image.shape)}",
)
def test_an_invalid_image_is_refused_by_number(exact_network: MaskRCNN, image: np.ndarray | torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"image 1 is .*uint8 \(H, W, 3\)"):
        exact_network.predict([np.ones((30, 40, 3), np.uint8), image])


def test_a_batch_size_of_zero(exact_network: MaskRCNN, pixels: Photos) -> None:
    with pytest.raises(ValueError, match="batch_size is 0"):
        exact_network.predict([pixels["small"]], batch_size=0)
