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

from jobs.console import USAGE, AsJson, console, err, errors_to_exit, fail, print_json
from jobs.demo import DATA
from model import MaskRCNN, load_model, rle
from model.mask_rcnn import batches
from model.rpn import propose
from model.transform import resized_size, shrink, to_input
from pipeline.decode import open_image, to_rgb
from pipeline.job import MAX_PIXELS

STAGES = ("decode", "input", "dense", "proposals", "boxes", "masks", "download", "rle")
ON_CPUS = ("decode", "rle")  # tasks beside the actor in a job; the rest is the actor's


@errors_to_exit
def gpu(
    weights: Annotated[str, typer.Option(help="A shipped name, coco, coco-v2, a path or a URI.")] = "nuclei",
    images: Annotated[Path, typer.Option(help="A folder of images.", exists=True, file_okay=False)] = DATA / "images",
    count: Annotated[int, typer.Option(min=1, help="Images in a round; the folder's are repeated.")] = 48,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of a forward pass, at most.")] = 16,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that count, after one that does not.")] = 5,
    precision: Annotated[str, typer.Option(metavar="auto|fp32|bf16|fp16", help="Arithmetic of the layers.")] = "auto",
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the network for each input shape.")] = False,
    device: Annotated[str, typer.Option(metavar="cuda|cpu", help="cpu runs the same code without a GPU.")] = "cuda",
    as_json: AsJson = False,
) -> None:
    """Encoded image to COCO RLE on one device, in one process: what sizes a fleet.

    Stages run one after the other, and the device is waited for after each. In a job the first and the last
    (decode, rle) run on other cores while the actor holds the GPU, so "the actor" is what one GPU does if it is fed,
    and "cores to feed it" how many cores of this machine decode and encode as fast.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        fail("no GPU here: torch sees no CUDA device; --device cpu runs the same on the processor", 1)
    try:
        chosen = torch.device(device)
    except RuntimeError:
        fail(f"--device {device} is no device of torch", USAGE)
    data = _encoded(images, count)
    network = load_model(weights, precision=precision, device=str(chosen), compiled=compiled)
    runs = []
    for number in range(rounds + 1):
        clock = Clock(chosen)
        began = time.perf_counter()
        detections = one_round(network, data, batch_size, clock)
        if number:
            runs.append({stage: clock.seconds[stage] for stage in STAGES} | {"all": time.perf_counter() - began})
        err.print(f"[dim]{f'round {number}' if number else 'warm-up'}: {time.perf_counter() - began:.2f} s[/]")
    report = summary(runs, len(data)) | {
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


@torch.inference_mode()
def one_round(network: MaskRCNN, data: Sequence[bytes], batch_size: int, clock: Clock) -> int:
    """Takes encoded images all the way, as a job does; how many instances were found."""
    preset, found = network.preset, 0
    with clock.stage("decode"):
        whole = [torch.from_numpy(to_rgb(open_image(d, MAX_PIXELS))) for d in data]
        outer = [(int(w.shape[0]), int(w.shape[1])) for w in whole]
        pixels = [shrink(w, preset) for w in whole]
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


def summary(runs: Sequence[dict[str, float]], images: int) -> dict[str, Any]:
    """Medians over the rounds: images a second, and seconds an image of each stage."""
    stages = {stage: statistics.median(r[stage] for r in runs) / images for stage in STAGES}
    actor = sum(seconds for stage, seconds in stages.items() if stage not in ON_CPUS)
    feeding = sum(stages[stage] for stage in ON_CPUS)
    return {
        "images_per_second": round(images / statistics.median(r["all"] for r in runs), 3),
        "actor_images_per_second": round(1 / actor, 3),
        "cores_to_feed_it": round(feeding / actor, 3),
        "stages": {stage: round(seconds, 6) for stage, seconds in stages.items()},
    }


def _encoded(folder: Path, count: int) -> list[bytes]:
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg", ".tif", ".tiff"))
    if not files:
        fail(f"no .png, .jpg or .tif in {folder}", USAGE)
    data = [f.read_bytes() for f in files[:count]]
    return [data[i % len(data)] for i in range(count)]


def _show(report: dict[str, Any]) -> None:
    console.print(
        f"{report['images']} images in batches of {report['batch_size']} on {report['device']}, {report['precision']}, "
        f"{report['detections']} instances"
    )
    table = Table("stage", "ms an image", box=None, pad_edge=False)
    for stage, seconds in report["stages"].items():
        table.add_row(stage, f"{seconds * 1000:.2f}")
    console.print(table)
    console.print(f"one after the other  {report['images_per_second']:.2f} images/s")
    console.print(f"the actor            {report['actor_images_per_second']:.2f} images/s")
    console.print(f"cores to feed it     {report['cores_to_feed_it']:.2f}")
