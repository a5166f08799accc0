"""`maskfleet benchmark gpu`: images a second on one device, end to end and stage by stage."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table
from torch import Tensor

from jobs.sample import DATA
from jobs.terminal.console import USAGE, AsJson, console, err, errors_to_exit, fail, print_json
from model import MaskRCNN, load_model, rle
from model.layers.rpn import propose
from model.layers.transform import resized_size, shrink, to_input
from model.mask_rcnn import batches
from pipeline.cluster.sizing import BATCHES
from pipeline.images.decoder import open_image, to_rgb
from pipeline.images.device_jpeg import decode_jpegs
from pipeline.options import MAX_PIXELS

STAGES = ("decode", "input", "dense", "proposals", "boxes", "masks", "download", "rle")
ON_CPUS = ("decode", "rle")  # tasks beside the actor in a job; the rest is the actor's
JPEGS = (".jpg", ".jpeg")


@errors_to_exit
def gpu(
    weights: Annotated[str, typer.Option(help="A shipped name, coco, coco-v2, a path or a URI.")] = "nuclei",
    images: Annotated[Path, typer.Option(help="A folder of images.", exists=True, file_okay=False)] = DATA / "images",
    count: Annotated[int, typer.Option(min=1, help="Images in a round; the folder's are repeated.")] = 48,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of a forward pass, at most.")] = 16,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that count, after one that does not.")] = 5,
    precision: Annotated[str, typer.Option(metavar="auto|fp32|bf16|fp16", help="Arithmetic of the layers.")] = "auto",
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the network for each input shape.")] = False,
    nvjpeg: Annotated[bool, typer.Option("--nvjpeg", help="The images are JPEG files, and the actor decodes.")] = False,
    device: Annotated[str, typer.Option(metavar="cuda|cpu", help="cpu runs the same code without a GPU.")] = "cuda",
    as_json: AsJson = False,
) -> None:
    """Encoded image to COCO RLE on one device, in one process: what sizes a fleet.

    Twice in each round. First by windows, as an actor of a job takes them: decode and rle run on other cores there
    and are not timed, so "the actor" is what one GPU does if it is fed. Then stage by stage, one after the other,
    the device waited for after each: where the time goes. "cores to feed it" is how many cores of this machine
    decode and encode as fast as the actor works.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        fail("no GPU here: torch sees no CUDA device; --device cpu runs the same on the processor", 1)
    try:
        chosen = torch.device(device)
    except RuntimeError:
        fail(f"--device {device} is no device of torch", USAGE)
    data = _encoded(images, count, nvjpeg)
    network = load_model(weights, precision=precision, device=str(chosen), compiled=compiled)
    runs = []
    for number in range(rounds + 1):
        actor, detections = by_windows(network, data, batch_size, nvjpeg)
        clock = Clock(chosen)
        began = time.perf_counter()
        by_stages(network, data, batch_size, nvjpeg, clock)
        seconds = {"actor": actor, "all": time.perf_counter() - began}
        if number:
            runs.append({stage: clock.seconds[stage] for stage in STAGES} | seconds)
        err.print(f"[dim]{f'round {number}' if number else 'warm-up'}: {sum(seconds.values()):.2f} s[/]")
    report = summary(runs, len(data), nvjpeg) | {
        "device": torch.cuda.get_device_name(chosen)
        if chosen.type == "cuda"
        else f"cpu, {torch.get_num_threads()} threads",
        "weights": weights,
        "precision": str(network.dtype).removeprefix("torch."),
        "images": len(data),
        "batch_size": batch_size,
        "rounds": rounds,
        "detections": detections,
    }
    if as_json:
        return print_json(report)
    _show(report)
    return None


@dataclass
class Clock:
    """Seconds of each stage; a GPU is waited for at both ends."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds what passes inside to a stage."""
        self._wait()
        began = time.perf_counter()
        yield
        self._wait()
        self.seconds[name] += time.perf_counter() - began

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def by_windows(network: MaskRCNN, data: Sequence[bytes], batch_size: int, nvjpeg: bool) -> tuple[float, int]:
    """Takes encoded images through `predict` as the segment stage does: the actor's seconds, instances found."""
    seconds, found = 0.0, 0
    for start in range(0, len(data), BATCHES * batch_size):
        began = time.perf_counter()
        pixels, sizes = decoded(data[start : start + BATCHES * batch_size], network, nvjpeg)
        if not nvjpeg:  # the actor is given pixels
            began = time.perf_counter()
        found += sum(map(len, network.predict(pixels, sizes, batch_size)))
        seconds += time.perf_counter() - began
    return seconds, found


def decoded(data: Sequence[bytes], network: MaskRCNN, nvjpeg: bool) -> tuple[list[Tensor], list[tuple[int, int]]]:
    """Pixels, no larger than the network wants them, and the (height, width) that they were stored with."""
    opened = [open_image(d, MAX_PIXELS) for d in data]
    sizes = [(image.height, image.width) for image in opened]
    if not nvjpeg:
        return [shrink(torch.from_numpy(to_rgb(image)), network.preset) for image in opened], sizes
    pixels = decode_jpegs(data, sizes, network.preset, network.device)
    if errors := [p for p in pixels if isinstance(p, str)]:
        fail(f"--nvjpeg: {errors[0]}", 1)
    return [p for p in pixels if isinstance(p, Tensor)], sizes


@torch.inference_mode()
def by_stages(network: MaskRCNN, data: Sequence[bytes], batch_size: int, nvjpeg: bool, clock: Clock) -> int:
    """Takes encoded images all the way, stage after stage; how many instances were found."""
    preset, found = network.preset, 0
    with clock.stage("decode"):
        pixels, outer = decoded(data, network, nvjpeg)
    inner = [resized_size(*size, preset) for size in outer]
    for chosen in batches(inner, preset, batch_size):
        with clock.stage("input"):
            resized = [inner[i] for i in chosen]
            batch = to_input([pixels[i] for i in chosen], resized, preset, network.device, network.exact)
            sizes = torch.tensor(resized, device=network.device)
        with clock.stage("dense"):
            features, objectness, deltas = network.dense(batch)
        with clock.stage("proposals"):
            grids = [(f.shape[2], f.shape[3]) for f in features[: preset.rpn_levels]]
            proposals = propose(preset, objectness, deltas, grids, (batch.shape[2], batch.shape[3]), sizes)
        with clock.stage("boxes"):
            rois, scores, labels = network.detect(features, proposals, sizes)
        with clock.stage("masks"):
            masks = network.outline(features, rois, labels)
        with clock.stage("download"):
            rois, masks, _, _ = rois.cpu(), masks.float().cpu(), scores.cpu(), labels.cpu()
        with clock.stage("rle"):
            for k, i in enumerate(chosen):
                mine = rois[:, 0] == k
                scale = torch.tensor(outer[i]) / torch.tensor(inner[i])
                boxes = rois[mine, 1:] * scale[[1, 0, 1, 0]]
                found += len(rle.encode(masks[mine], boxes, *outer[i], paste=preset.mask_paste))
    return found


def summary(runs: Sequence[dict[str, float]], images: int, nvjpeg: bool = False) -> dict[str, Any]:
    """Medians over the rounds: images a second, and seconds an image of each stage."""
    medians = {name: statistics.median(r[name] for r in runs) / images for name in (*STAGES, "actor", "all")}
    feeding = sum(medians[stage] for stage in ON_CPUS if not (nvjpeg and stage == "decode"))
    return {
        "actor_images_per_second": round(1 / medians["actor"], 3),
        "cores_to_feed_it": round(feeding / medians["actor"], 3),
        "images_per_second": round(1 / medians["all"], 3),
        "stages": {stage: round(medians[stage], 6) for stage in STAGES},
    }


def _encoded(folder: Path, count: int, nvjpeg: bool) -> list[bytes]:
    kinds = JPEGS if nvjpeg else (".png", *JPEGS, ".tif", ".tiff")
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in kinds)
    if not files:
        fail(f"no {', '.join(kinds)} in {folder}", USAGE)
    data = [f.read_bytes() for f in files[:count]]
    return [data[i % len(data)] for i in range(count)]


def _show(report: dict[str, Any]) -> None:
    console.print(
        f"{report['images']} images in batches of {report['batch_size']} on {report['device']}, {report['precision']}, "
        f"{report['detections']} instances"
    )
    console.print(f"the actor            {report['actor_images_per_second']:.2f} images/s")
    console.print(f"cores to feed it     {report['cores_to_feed_it']:.2f}")
    console.print(f"stage after stage    {report['images_per_second']:.2f} images/s")
    table = Table("stage", "ms an image", box=None, pad_edge=False)
    for stage, seconds in report["stages"].items():
        table.add_row(stage, f"{seconds * 1000:.2f}")
    console.print(table)
