"""`maskfleet benchmark gpu`: measures images per second on one device, end to end and per stage."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from jobs.benchmarks.timing import round_name
from jobs.sample import DATA
from jobs.terminal.console import USAGE, AsJson, console, err, errors_to_exit, fail, print_json

JPEG_SUFFIXES = (".jpg", ".jpeg")
IMAGE_SUFFIXES = (".png", *JPEG_SUFFIXES, ".tif", ".tiff")


@errors_to_exit
def benchmark_gpu(
    weights: Annotated[str, typer.Option(help="A shipped name, coco, coco-v2, a path or a URI.")] = "nuclei",
    images: Annotated[Path, typer.Option(help="Folder of images.", exists=True, file_okay=False)] = DATA / "images",
    count: Annotated[int, typer.Option(min=1, help="Images per round. The images of the folder repeat.")] = 48,
    batch_size: Annotated[int, typer.Option(min=1, help="Maximum number of images in a forward pass.")] = 16,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that count, after one warm-up round.")] = 5,
    precision: Annotated[str, typer.Option(metavar="auto|fp32|bf16|fp16", help="Precision of the layers.")] = "auto",
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the network for each input shape.")] = False,
    nvjpeg: Annotated[bool, typer.Option("--nvjpeg", help="Decode JPEG files in the actor, on the GPU.")] = False,
    device: Annotated[str, typer.Option(metavar="cuda|cpu", help="cpu runs the same code without a GPU.")] = "cuda",
    as_json: AsJson = False,
) -> None:
    """Measure the way from encoded image to COCO RLE on one device, in one process. The result sizes a fleet.

    Each round runs twice. The first run takes images in windows, as an actor of a job does. Decoding and RLE run on
    other cores in a job and are not timed here, so "actor" is the rate of one GPU that never waits for input. The
    second run executes stage after stage and waits for the device after each, which shows where the time goes.
    "cores to feed it" is the number of cores of this machine that decode and encode as fast as the actor works.
    """
    import torch

    from jobs.benchmarks.gpu_stages import STAGES, StageTimer, run_stages, run_windows, summarise
    from model import load_model

    if device.startswith("cuda") and not torch.cuda.is_available():
        fail("no GPU here: torch sees no CUDA device; --device cpu runs the same on the processor", 1)
    try:
        target = torch.device(device)
    except RuntimeError:
        fail(f"--device {device} is not a device of torch", USAGE)
    data = _read_images(images, count, JPEG_SUFFIXES if nvjpeg else IMAGE_SUFFIXES)
    network = load_model(weights, precision=precision, device=str(target), compiled=compiled)
    runs = []
    for number in range(rounds + 1):
        actor_seconds, detections = run_windows(network, data, batch_size, nvjpeg)
        timer = StageTimer(target)
        started = time.perf_counter()
        run_stages(network, data, batch_size, nvjpeg, timer)
        seconds = {"actor": actor_seconds, "all": time.perf_counter() - started}
        if number:
            runs.append({stage: timer.seconds[stage] for stage in STAGES} | seconds)
        err.print(f"[dim]{round_name(number)}: {sum(seconds.values()):.2f} s[/]")
    threads = f"cpu, {torch.get_num_threads()} threads"
    report = summarise(runs, len(data), nvjpeg) | {
        "device": torch.cuda.get_device_name(target) if target.type == "cuda" else threads,
        "weights": weights,
        "precision": str(network.dtype).removeprefix("torch."),
        "images": len(data),
        "batch_size": batch_size,
        "rounds": rounds,
        "detections": detections,
    }
    if as_json:
        return print_json(report)
    _print_report(report)
    return None


def _read_images(folder: Path, count: int, suffixes: tuple[str, ...]) -> list[bytes]:
    """Reads the image files of a folder, repeated up to a count."""
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes)
    if not files:
        fail(f"no {', '.join(suffixes)} in {folder}", USAGE)
    data = [f.read_bytes() for f in files[:count]]
    return [data[i % len(data)] for i in range(count)]


def _print_report(report: dict[str, Any]) -> None:
    console.print(
        f"{report['images']} images in batches of {report['batch_size']} on {report['device']}, {report['precision']}, "
        f"{report['detections']} instances"
    )
    console.print(f"actor                {report['actor_images_per_second']:.2f} images/s")
    console.print(f"cores to feed it     {report['cores_to_feed_it']:.2f}")
    console.print(f"stage after stage    {report['images_per_second']:.2f} images/s")
    table = Table("stage", "ms per image", box=None, pad_edge=False)
    for stage, seconds in report["stages"].items():
        table.add_row(stage, f"{seconds * 1000:.2f}")
    console.print(table)
