"""`maskfleet benchmark`: the figures in BENCHMARKS.md, each from one command."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image
from pycocotools import mask as coco_mask
from torchvision.models.detection.roi_heads import paste_masks_in_image

from jobs.console import AsJson, console, err, errors_to_exit, print_json
from jobs.demo import DATA
from model import load_model, read_checkpoint, rle
from model.mask_rcnn import Detections
from model.training.network import build_torchvision

app = typer.Typer(help="Measure on this machine. Both sides of a comparison run in one process, in alternation.")


@app.command()
@errors_to_exit
def model(
    weights: Annotated[str, typer.Option(help="A shipped name, a path or a URI.")] = "nuclei",
    images: Annotated[Path, typer.Option(help="A folder of images.", exists=True)] = DATA / "images",
    count: Annotated[int, typer.Option(min=1, help="Images in a round.")] = 6,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the median ratio is reported.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Decoded image to COCO RLE: torchvision eager in float32 beside ours, with the same weights."""
    files = sorted(p for p in images.iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg"))[:count]
    pixels = [np.array(Image.open(f).convert("RGB")) for f in files]
    sides = {"torchvision fp32": _torchvision(weights)}
    sides |= {f"maskfleet {p}": _ours(weights, p) for p in dict.fromkeys(("fp32", "auto"))}
    seconds = _alternate(sides, pixels, rounds)
    reference = seconds["torchvision fp32"]
    report = {
        name: {
            "seconds_per_image": round(statistics.median(times) / len(pixels), 4),
            "times_torchvision": round(statistics.median(r / t for r, t in zip(reference, times, strict=True)), 2),
        }
        for name, times in seconds.items()
    }
    if as_json:
        return print_json(report | {"images": len(pixels), "rounds": rounds, "threads": torch.get_num_threads()})
    for name, figures in report.items():
        console.print(f"{name:18} {figures['seconds_per_image']:.3f} s an image, {figures['times_torchvision']:.2f}x")
    return None


@app.command("rle")
@errors_to_exit
def rle_(
    height: Annotated[int, typer.Option(min=1)] = 480,
    width: Annotated[int, typer.Option(min=1)] = 640,
    instances: Annotated[int, typer.Option(min=1)] = 100,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    as_json: AsJson = False,
) -> None:
    """Boxes and 28x28 masks to COCO RLE: ours beside torchvision's paste and pycocotools' encode."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(instances, 2, generator=generator)
    side = (1 - corner) * torch.rand(instances, 2, generator=generator) * 0.5
    boxes = torch.cat([corner, corner + side], 1) * torch.tensor([width, height, width, height])
    coarse = torch.rand(instances, 1, 7, 7, generator=generator)
    masks = torch.nn.functional.interpolate(coarse, (28, 28), mode="bilinear")[:, 0]

    def reference(_: None) -> None:
        pasted = (paste_masks_in_image(masks[:, None], boxes, (height, width)) > 0.5).numpy()
        coco_mask.encode(np.asfortranarray(pasted[:, 0].transpose(1, 2, 0).astype(np.uint8)))

    def ours(_: None) -> None:
        rle.encode(masks, boxes, height, width)

    seconds = _alternate({"paste + encode": reference, "maskfleet": ours}, [None], rounds)
    pairs = zip(seconds["paste + encode"], seconds["maskfleet"], strict=True)
    report = {k: round(statistics.median(v), 4) for k, v in seconds.items()}
    report["ratio"] = round(statistics.median(a / b for a, b in pairs), 1)
    if as_json:
        return print_json(report)
    console.print(f"{instances} instances at {height}x{width}: {report}")
    return None


def _alternate(sides: dict[str, Callable], items: list, rounds: int) -> dict[str, list[float]]:
    """Seconds of each side in each round, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(rounds + 1):
        for name, run in sides.items():
            began = time.perf_counter()
            for item in items:
                run(item)
            if round_:
                seconds[name].append(time.perf_counter() - began)
            err.print(f"[dim]round {round_}: {name} {time.perf_counter() - began:.2f} s[/]")
    return seconds


def _ours(weights: str, precision: str) -> Callable[[np.ndarray], object]:
    network = load_model(weights, precision=precision, device="cpu")

    def run(pixels: np.ndarray) -> list[str]:
        found: Detections = network.predict([pixels])[0]
        return rle.encode(found.masks, found.boxes, *pixels.shape[:2])

    return run


def _torchvision(weights: str) -> Callable[[np.ndarray], object]:
    checkpoint = read_checkpoint(weights)
    network = build_torchvision(checkpoint.preset).eval()
    network.load_state_dict(checkpoint.state, strict=False)

    @torch.inference_mode()
    def run(pixels: np.ndarray) -> object:
        found = network([torch.from_numpy(pixels).permute(2, 0, 1).float() / 255])[0]
        masks = (found["masks"][:, 0] > 0.5).numpy().astype(np.uint8)
        return coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0)))

    return run
