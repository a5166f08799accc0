"""Fixtures of the model tests: photos, random networks that detect, torchvision's results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.small_checkpoint import SHAPE, State
from support.tiny import TINY
from torch import Tensor
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN

from model import Detections, MaskRCNN, Preset
from model.layers.anchors import anchors_at
from model.training.calibration import calibrate as calibrated
from model.training.network import build_torchvision

PHOTOS = Path(__file__).parents[1] / "data" / "photos"
NAMES = {
    "landscape": "000000401416.jpg",  # 640 x 480
    "wide": "000000343937.jpg",  # 640 x 428
    "portrait": "000000006818.jpg",  # 427 x 640
    "small": "000000331352.jpg",  # 351 x 500
    "square": "000000165518.jpg",  # 612 x 612
}


@pytest.fixture(scope="session")
def pixels() -> dict[str, np.ndarray]:
    """uint8 (H, W, 3) RGB of five shapes."""
    return {name: np.array(Image.open(PHOTOS / file).convert("RGB")) for name, file in NAMES.items()}


@pytest.fixture(scope="session")
def tiny() -> Preset:
    """The preset of `tiny_torchvision`."""
    return TINY


@pytest.fixture(scope="session")
def small_state() -> State:
    """A small state dict as torchvision would save it, with random values and the shapes of `SHAPE`."""
    torch.manual_seed(0)
    return {
        k: torch.rand(v.shape) * 0.1 if v.is_floating_point() else v for k, v in MaskRCNN(SHAPE).state_dict().items()
    }


@pytest.fixture(scope="session")
def tiny_torchvision(pixels: dict[str, np.ndarray]) -> TorchvisionMaskRCNN:
    """torchvision's Mask R-CNN in the shape of `tiny`, random but detecting."""
    torch.manual_seed(0)
    return calibrated(build_torchvision(TINY), pixels["landscape"])


@pytest.fixture(scope="session")
def calibrate() -> Callable[[TorchvisionMaskRCNN, np.ndarray], TorchvisionMaskRCNN]:
    """Makes a random network detect; see `model.training.calibration`."""
    return calibrated


@pytest.fixture(scope="session")
def torchvision_detections() -> Callable[[TorchvisionMaskRCNN, np.ndarray], Detections]:
    """Returns torchvision's result for a single image, with the masks before it pastes them."""
    return _torchvision_detections


@pytest.fixture(scope="session")
def assert_same() -> Callable[..., None]:
    """Asserts equal counts and labels, and boxes within 1e-3 px, scores 1e-5, masks 1e-4 by default."""
    return _assert_same


@pytest.fixture(scope="session")
def pyramid_anchors() -> Callable[[Preset, Sequence[tuple[int, int]], int, int], list[Tensor]]:
    """Returns all anchors of an input of height x width pixels, (rows * columns * k, 4) per grid, finest first."""
    return _pyramid_anchors


def _pyramid_anchors(preset: Preset, grids: Sequence[tuple[int, int]], height: int, width: int) -> list[Tensor]:
    every = [torch.arange(rows * columns * preset.anchors_per_location) for rows, columns in grids]
    return [anchors_at(preset, i, e, grids[i], (height, width)) for i, e in enumerate(every)]


def _pixels(image: np.ndarray) -> Tensor:
    return torch.as_tensor(image).permute(2, 0, 1).float() / 255


@torch.inference_mode()
def _torchvision_detections(network: TorchvisionMaskRCNN, image: np.ndarray) -> Detections:
    # The steps of torchvision's GeneralizedRCNN.forward, except that the masks are taken before `postprocess`.
    batch, _ = network.transform([_pixels(image)])
    features = network.backbone(batch.tensors)
    proposals, _ = network.rpn(batch, features)
    found, _ = network.roi_heads(features, proposals, batch.image_sizes)
    masks = found[0].pop("masks")[:, 0]
    (result,) = network.transform.postprocess(found, batch.image_sizes, [image.shape[:2]])
    return Detections(result["boxes"], result["scores"], result["labels"], masks)


def _assert_same(
    ours: Detections, reference: Detections, boxes: float = 1e-3, scores: float = 1e-5, masks: float = 1e-4
) -> None:
    assert len(ours) == len(reference)
    assert torch.equal(ours.labels, reference.labels)
    for field, tolerance in (("boxes", boxes), ("scores", scores), ("masks", masks)):
        found, expected = getattr(ours, field), getattr(reference, field)
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance, msg=lambda m, f=field: f"{f}: {m}")
