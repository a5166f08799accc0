"""The two sides of `maskfleet benchmark model`, and the measurements of ours."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN

from jobs.benchmarks.timing import alternate
from jobs.terminal.console import USAGE, fail
from model import Checkpoint, MaskRCNN, Preset, load_model, read_checkpoint, rle
from model.layers.rpn import propose
from model.layers.transform import resized_size, to_input
from model.training.calibration import calibrate
from model.training.network import build_torchvision

MATRIX_SIDE = 2048  # of the matrix product that serves as the yardstick

Networks = tuple[Checkpoint, TorchvisionMaskRCNN]


def load_networks(weights: str) -> Networks:
    """Reads a checkpoint, and loads it into torchvision's network as well. Exits if that cannot hold the weights."""
    checkpoint = read_checkpoint(weights)
    network = build_torchvision(checkpoint.preset).eval()
    shapes = {k: v.shape for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    state = {k: v for k, v in checkpoint.state.items() if not k.endswith("num_batches_tracked")}
    if checkpoint.preset.family != "torchvision" or shapes != {k: v.shape for k, v in state.items()}:
        fail(f"{weights}: torchvision's Mask R-CNN V1 cannot hold these weights", USAGE)
    network.load_state_dict(state, strict=False)  # without the batch counters, which inference does not use
    return checkpoint, network


def random_networks(image: np.ndarray) -> Networks:
    """Builds a random R50-FPN that detects objects in an image uint8 (H, W, 3), with COCO's number of classes."""
    torch.manual_seed(0)
    ids = tuple(range(1, 91))  # torchvision's COCO weights have as many outputs
    preset = Preset(category_ids=ids, categories=tuple(f"class {i}" for i in ids))
    network = calibrate(build_torchvision(preset), image)
    return Checkpoint(network.state_dict(), preset, "", {}), network


def torchvision_side(network: TorchvisionMaskRCNN, images: Sequence[np.ndarray]) -> Callable[[], None]:
    """Returns a function that predicts and encodes images uint8 (H, W, 3) with torchvision and pycocotools."""

    @torch.inference_mode()
    def run() -> None:
        for image in images:
            found = network([torch.from_numpy(image).permute(2, 0, 1).float() / 255])[0]
            masks = (found["masks"][:, 0] > 0.5).numpy().astype(np.uint8)
            coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0)))

    return run


def our_side(network: MaskRCNN, images: Sequence[np.ndarray]) -> Callable[[], None]:
    """Returns a function that predicts and encodes images uint8 (H, W, 3) with our network."""

    def run() -> None:
        for image in images:
            found = network.predict([image])[0]
            rle.encode(found.masks, found.boxes, *image.shape[:2], paste=network.preset.mask_paste)

    return run


@torch.inference_mode()
def stage_seconds(network: MaskRCNN, images: Sequence[np.ndarray], rounds: int) -> dict[str, float]:
    """Measures the seconds per image of each stage of our side, as medians over all images and rounds."""
    preset, seconds = network.preset, defaultdict[str, list[float]](list)

    def timed(stage: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        result = function(*args, **kwargs)
        seconds[stage].append(time.perf_counter() - started)
        return result

    for image in [*images] * rounds:
        resized = resized_size(*image.shape[:2], preset)
        sizes = torch.tensor([resized])
        batch = timed("input", _to_batch, network, image, resized)
        features, objectness, deltas = timed("dense", network.dense, batch)
        grids = [(f.shape[2], f.shape[3]) for f in features[: preset.rpn_levels]]
        shape = (batch.shape[2], batch.shape[3])
        proposals = timed("proposals", propose, preset, objectness, deltas, grids, shape, sizes)
        rois, _, labels = timed("boxes", network.detect, features, proposals, sizes)
        masks = timed("masks", network.predict_masks, features, rois, labels)
        scale = torch.tensor(image.shape[:2]) / torch.tensor(resized)
        boxes = rois[:, 1:] * scale[[1, 0, 1, 0]]
        timed("rle", rle.encode, masks, boxes, *image.shape[:2], paste=preset.mask_paste)
    return {stage: round(statistics.median(times), 4) for stage, times in seconds.items()}


@torch.inference_mode()
def arithmetic_rate(checkpoint: Checkpoint, network: MaskRCNN, image: np.ndarray, rounds: int) -> dict[str, float]:
    """Compares the rate of the forward pass with that of a plain matrix product in the same precision.

    Returns:
        Operations of the forward pass in GFLOP, both rates in GFLOP/s, and their ratio.
    """
    resized = resized_size(*image.shape[:2], network.preset)
    batch, sizes = _to_batch(network, image, resized), torch.tensor([resized])
    plain = load_model(checkpoint, precision="fp32", device="cpu")  # only PyTorch's own layers can be counted
    with FlopCounterMode(display=False) as counter:
        plain(batch, sizes)
    a, b = (torch.randn(MATRIX_SIDE, MATRIX_SIDE).to(network.dtype) for _ in range(2))
    sides = {"forward": lambda: network(batch, sizes), "matrix product": lambda: a @ b}
    seconds = alternate(sides, max(rounds, 5))
    forward = counter.get_total_flops() / statistics.median(seconds["forward"]) / 1e9
    matrix = 2 * MATRIX_SIDE**3 / statistics.median(seconds["matrix product"]) / 1e9
    return {
        "forward_gflop": round(counter.get_total_flops() / 1e9, 1),
        "forward_gflops": round(forward, 1),
        "matrix_gflops": round(matrix, 1),
        "share": round(forward / matrix, 3),
    }


def _to_batch(network: MaskRCNN, image: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Prepares one image as the network's input, (1, 3, H, W)."""
    return to_input([torch.from_numpy(image)], [size], network.preset, network.device, network.exact)
