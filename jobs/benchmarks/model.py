"""`maskfleet benchmark model`: compares the network with torchvision's, from decoded image to COCO RLE."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from jobs.benchmarks.timing import alternate, speedup
from jobs.sample import DATA
from jobs.terminal.console import USAGE, AsJson, console, errors_to_exit, fail, print_json

if TYPE_CHECKING:
    import numpy as np

RANDOM = "random-r50"


@errors_to_exit
def benchmark_model(
    weights: Annotated[
        str, typer.Option(help=f"A shipped name, a path or a URI; {RANDOM} is a random R50-FPN that detects objects.")
    ] = RANDOM,
    images: Annotated[Path, typer.Option(help="Folder of images.", exists=True)] = DATA / "images",
    size: Annotated[str | None, typer.Option(metavar="HxW", help="Resize the images to this size first.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Images per round.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the median ratio is reported.")] = 5,
    precision: Annotated[str, typer.Option(help="Precision of our network.")] = "auto",
    compiled: Annotated[bool, typer.Option("--compile", help="Measure our network compiled, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare torchvision in eager float32 with our network, with the same weights.

    Both sides work image by image. The report also has the stages of our side, and the rate of its forward pass as
    a share of the machine's matrix-product rate (operations of the whole network divided by the time it takes).
    """
    import torch

    from jobs.benchmarks import model_sides
    from model import load_model
    from model.inference.memory import keep_freed_memory

    keep_freed_memory()
    pixels = _read_images(images, size, count)
    checkpoint, reference = (
        model_sides.random_networks(pixels[0]) if weights == RANDOM else model_sides.load_networks(weights)
    )
    networks = {precision: load_model(checkpoint, precision=precision, device="cpu")}
    if compiled:
        networks[f"{precision} compiled"] = load_model(checkpoint, precision=precision, device="cpu", compiled=True)
    sides = {"torchvision fp32": model_sides.torchvision_side(reference, pixels)}
    sides |= {f"maskfleet {name}": model_sides.our_side(network, pixels) for name, network in networks.items()}
    seconds = alternate(sides, rounds)
    report: dict[str, Any] = {
        "sides": {
            name: {
                "seconds_per_image": round(statistics.median(times) / len(pixels), 4),
                "times_torchvision": round(speedup(seconds["torchvision fp32"], times), 2),
            }
            for name, times in seconds.items()
        },
        "stages": model_sides.stage_seconds(networks[precision], pixels, rounds),
        "arithmetic": model_sides.arithmetic_rate(checkpoint, networks[precision], pixels[0], rounds),
        "images": len(pixels),
        "sources": sorted({f"{p.shape[0]}x{p.shape[1]}" for p in pixels}),
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "detections": [len(networks[precision].predict([image])[0]) for image in pixels],
    }
    if as_json:
        return print_json(report)
    _print_report(report)
    return None


def _read_images(folder: Path, size: str | None, count: int) -> list[np.ndarray]:
    """Reads the first images of a folder as uint8 (H, W, 3) RGB, resized if a size is given."""
    import numpy as np
    from PIL import Image

    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg"))[:count]
    if not files:
        fail(f"no .png or .jpg in {folder}", USAGE)
    images = [Image.open(f).convert("RGB") for f in files]
    if size:
        try:
            height, width = (int(side) for side in size.split("x"))
        except ValueError:
            fail(f"--size {size!r} is not like 480x640", USAGE)
        images = [image.resize((width, height)) for image in images]
    return [np.array(image) for image in images]


def _print_report(report: dict[str, Any]) -> None:
    console.print(f"{report['images']} images of {', '.join(report['sources'])}, detections {report['detections']}")
    table = Table("", "s per image", "times torchvision", box=None, pad_edge=False)
    for name, figures in report["sides"].items():
        table.add_row(name, f"{figures['seconds_per_image']:.3f}", f"{figures['times_torchvision']:.2f}x")
    console.print(table)
    console.print("seconds of our stages: " + ", ".join(f"{k} {v:.3f}" for k, v in report["stages"].items()))
    arithmetic = report["arithmetic"]
    console.print(
        f"forward pass: {arithmetic['forward_gflop']} GFLOP at {arithmetic['forward_gflops']:.0f} GFLOP/s, "
        f"{arithmetic['share']:.0%} of a matrix product's {arithmetic['matrix_gflops']:.0f}"
    )
