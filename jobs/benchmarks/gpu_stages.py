"""The measurements of `maskfleet benchmark gpu`: windows as in an actor, and one stage after the other."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from jobs.terminal.console import fail
from model import MaskRCNN, rle
from model.batching import batches_by_shape
from model.layers.rpn import propose
from model.layers.transform import resized_size, shrink, to_input
from pipeline.cluster.actor_pool import BATCHES_PER_WINDOW
from pipeline.images import open_image, to_rgb
from pipeline.images.device_jpeg import decode_jpegs
from pipeline.options import MAX_PIXELS

STAGES = ("decode", "input", "dense", "proposals", "boxes", "masks", "download", "rle")
CPU_STAGES = ("decode", "rle")  # in a job these are tasks on other cores; the actor runs the rest


@dataclass
class StageTimer:
    """Adds up the seconds of each stage. It waits for a GPU before and after a stage."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the duration of the `with` block to a stage."""
        self._synchronize()
        started = time.perf_counter()
        yield
        self._synchronize()
        self.seconds[name] += time.perf_counter() - started

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def run_windows(network: MaskRCNN, data: Sequence[bytes], batch_size: int, nvjpeg: bool) -> tuple[float, int]:
    """Predicts encoded images in windows, as the segment stage does.

    Args:
        network: a network that is ready to predict.
        data: encoded images.
        batch_size: maximum number of images in a forward pass.
        nvjpeg: whether the actor decodes, on its device.

    Returns:
        The seconds that an actor would spend, and the number of instances found.
    """
    seconds, instances = 0.0, 0
    window = BATCHES_PER_WINDOW * batch_size
    for start in range(0, len(data), window):
        started = time.perf_counter()
        pixels, sizes = decode(data[start : start + window], network, nvjpeg)
        if not nvjpeg:  # the actor receives pixels
            started = time.perf_counter()
        instances += sum(map(len, network.predict(pixels, sizes, batch_size)))
        seconds += time.perf_counter() - started
    return seconds, instances


def decode(data: Sequence[bytes], network: MaskRCNN, nvjpeg: bool) -> tuple[list[Tensor], list[tuple[int, int]]]:
    """Decodes images and shrinks them to the network's resolution.

    Returns:
        Pixels uint8 (h, w, 3) RGB, and the (height, width) of each stored image.
    """
    images = [open_image(d, MAX_PIXELS) for d in data]
    sizes = [(image.height, image.width) for image in images]
    if not nvjpeg:
        return [shrink(torch.from_numpy(to_rgb(image)), network.preset) for image in images], sizes
    pixels = decode_jpegs(data, sizes, network.preset, network.device)
    if errors := [p for p in pixels if isinstance(p, str)]:
        fail(f"--nvjpeg: {errors[0]}", 1)
    return [p for p in pixels if isinstance(p, Tensor)], sizes


@torch.inference_mode()
def run_stages(network: MaskRCNN, data: Sequence[bytes], batch_size: int, nvjpeg: bool, timer: StageTimer) -> int:
    """Takes encoded images through all stages, one stage after the other.

    Args:
        network: a network that is ready to predict.
        data: encoded images.
        batch_size: maximum number of images in a forward pass.
        nvjpeg: whether the network's device decodes.
        timer: receives the seconds of each of `STAGES`.

    Returns:
        The number of instances found.
    """
    preset, instances = network.preset, 0
    with timer.stage("decode"):
        pixels, stored_sizes = decode(data, network, nvjpeg)
    input_sizes = [resized_size(*size, preset) for size in stored_sizes]
    for indices in batches_by_shape(input_sizes, preset, batch_size):
        with timer.stage("input"):
            resized = [input_sizes[i] for i in indices]
            batch = to_input([pixels[i] for i in indices], resized, preset, network.device, network.exact)
            sizes = torch.tensor(resized, device=network.device)
        with timer.stage("dense"):
            features, objectness, deltas = network.dense(batch)
        with timer.stage("proposals"):
            grids = [(f.shape[2], f.shape[3]) for f in features[: preset.rpn_levels]]
            proposals = propose(preset, objectness, deltas, grids, (batch.shape[2], batch.shape[3]), sizes)
        with timer.stage("boxes"):
            rois, scores, labels = network.detect(features, proposals, sizes)
        with timer.stage("masks"):
            masks = network.predict_masks(features, rois, labels)
        with timer.stage("download"):
            rois, masks, _, _ = rois.cpu(), masks.float().cpu(), scores.cpu(), labels.cpu()
        with timer.stage("rle"):
            for k, i in enumerate(indices):
                of_image = rois[:, 0] == k
                scale = torch.tensor(stored_sizes[i]) / torch.tensor(input_sizes[i])
                boxes = rois[of_image, 1:] * scale[[1, 0, 1, 0]]
                instances += len(rle.encode(masks[of_image], boxes, *stored_sizes[i], paste=preset.mask_paste))
    return instances


def summarise(runs: Sequence[dict[str, float]], images: int, nvjpeg: bool = False) -> dict[str, Any]:
    """Computes rates and seconds per image from the medians over the rounds.

    Args:
        runs: seconds of each stage, of the actor ("actor") and of all stages ("all"), per round.
        images: number of images in a round.
        nvjpeg: whether the actor decodes.
    """
    medians = {name: statistics.median(r[name] for r in runs) / images for name in (*STAGES, "actor", "all")}
    cpu_seconds = sum(medians[stage] for stage in CPU_STAGES if not (nvjpeg and stage == "decode"))
    return {
        "actor_images_per_second": round(1 / medians["actor"], 3),
        "cores_to_feed_it": round(cpu_seconds / medians["actor"], 3),
        "images_per_second": round(1 / medians["all"], 3),
        "stages": {stage: round(medians[stage], 6) for stage in STAGES},
    }
