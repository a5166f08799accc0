"""`maskfleet benchmark model`: decoded image to COCO RLE, torchvision beside ours, and where the time goes."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image
from pycocotools import mask as coco_mask
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN

from jobs.benchmarks.timing import alternate, ratio
from jobs.sample import DATA
from jobs.terminal.console import USAGE, AsJson, console, errors_to_exit, fail, print_json
from model import Checkpoint, MaskRCNN, Preset, load_model, read_checkpoint, rle
from model.inference.memory import keep_freed_memory
from model.layers.rpn import propose
from model.layers.transform import resized_size, to_input
from model.training.calibrated import calibrate
from model.training.network import build_torchvision

RANDOM = "random-r50"
MATRIX = 2048  # side of the matrix product whose rate is the yardstick


@errors_to_exit
def model(
    weights: Annotated[
        str, typer.Option(help=f"A shipped name, a path or a URI; {RANDOM}: a random R50-FPN that detects.")
    ] = RANDOM,
    images: Annotated[Path, typer.Option(help="A folder of images.", exists=True)] = DATA / "images",
    size: Annotated[str | None, typer.Option(metavar="HxW", help="Resize the images to this first.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Images in a round.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the median ratio is reported.")] = 5,
    precision: Annotated[str, typer.Option(help="Of our side.")] = "auto",
    compiled: Annotated[bool, typer.Option("--compile", help="Also our side compiled.")] = False,
    as_json: AsJson = False,
) -> None:
    """Decoded image to COCO RLE: torchvision eager in float32 beside ours, with the same weights.

    Both sides work image by image. Also: the stages of our side, and the share of this machine's matrix-product
    rate that the forward pass reaches (the operations of the whole network over the time it takes).
    """
    keep_freed_memory()
    pixels = _pixels(images, size, count)
    checkpoint, reference = torchvision_of(weights, pixels[0])
    networks = {precision: load_model(checkpoint, precision=precision, device="cpu")}
    if compiled:
        networks[f"{precision} compiled"] = load_model(checkpoint, precision=precision, device="cpu", compiled=True)
    sides = {"torchvision fp32": lambda: [_torchvision(reference, p) for p in pixels]}
    sides |= {f"maskfleet {name}": _ours(network, pixels) for name, network in networks.items()}
    seconds = alternate(sides, rounds)
    report = {
        name: {
            "seconds_per_image": round(statistics.median(times) / len(pixels), 4),
            "times_torchvision": round(ratio(seconds["torchvision fp32"], times), 2),
        }
        for name, times in seconds.items()
    }
    stages = _stages(networks[precision], pixels, rounds)
    arithmetic = _arithmetic(checkpoint, networks[precision], pixels[0], rounds)
    about = {"images": len(pixels), "sources": sorted({f"{p.shape[0]}x{p.shape[1]}" for p in pixels})}
    about |= {
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "detections": _detections(networks[precision], pixels),
    }
    if as_json:
        return print_json({"sides": report, "stages": stages, "arithmetic": arithmetic} | about)
    _show(report, stages, arithmetic, about)
    return None


def _pixels(folder: Path, size: str | None, count: int) -> list[np.ndarray]:
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg"))[:count]
    if not files:
        fail(f"no .png or .jpg in {folder}", USAGE)
    pictures = [Image.open(f).convert("RGB") for f in files]
    if size:
        try:
            height, width = (int(side) for side in size.split("x"))
        except ValueError:
            fail(f"--size {size!r} is not like 480x640", USAGE)
        pictures = [p.resize((width, height)) for p in pictures]
    return [np.array(p) for p in pictures]


def torchvision_of(weights: str, image: np.ndarray) -> tuple[Checkpoint, TorchvisionMaskRCNN]:
    """The weights, and torchvision's network with them."""
    if weights != RANDOM:
        checkpoint = read_checkpoint(weights)
        network = build_torchvision(checkpoint.preset).eval()
        shapes = {k: v.shape for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
        state = {k: v for k, v in checkpoint.state.items() if not k.endswith("num_batches_tracked")}
        if checkpoint.preset.family != "torchvision" or shapes != {k: v.shape for k, v in state.items()}:
            fail(f"{weights}: torchvision's Mask R-CNN of the V1 design cannot hold these weights", USAGE)
        network.load_state_dict(state, strict=False)  # without counters, which inference does not use
        return checkpoint, network
    torch.manual_seed(0)
    ids = tuple(range(1, 91))  # as many outputs as torchvision's COCO weights have
    preset = Preset(category_ids=ids, categories=tuple(f"class {i}" for i in ids))
    network = calibrate(build_torchvision(preset), image)
    return Checkpoint(network.state_dict(), preset, "", {}), network


@torch.inference_mode()
def _torchvision(network: TorchvisionMaskRCNN, pixels: np.ndarray) -> list[dict[str, Any]]:
    found = network([torch.from_numpy(pixels).permute(2, 0, 1).float() / 255])[0]
    masks = (found["masks"][:, 0] > 0.5).numpy().astype(np.uint8)
    return coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0)))


def _ours(network: MaskRCNN, pixels: list[np.ndarray]) -> Any:
    def run() -> None:
        for image in pixels:
            found = network.predict([image])[0]
            rle.encode(found.masks, found.boxes, *image.shape[:2], paste=network.preset.mask_paste)

    return run


def _detections(network: MaskRCNN, pixels: list[np.ndarray]) -> list[int]:
    return [len(network.predict([image])[0]) for image in pixels]


@torch.inference_mode()
def _stages(network: MaskRCNN, pixels: list[np.ndarray], rounds: int) -> dict[str, float]:
    """Seconds an image of each stage of our side, medians over all images and rounds."""
    preset, spent = network.preset, defaultdict[str, list[float]](list)

    def timed(stage: str, step: Any) -> Any:
        began = time.perf_counter()
        result = step()
        spent[stage].append(time.perf_counter() - began)
        return result

    for image in pixels * rounds:
        resized = resized_size(*image.shape[:2], preset)
        sizes = torch.tensor([resized])
        batch = timed("input", lambda: _input(network, image, resized))  # noqa: B023
        features, objectness, deltas = timed("dense", lambda: network.dense(batch))  # noqa: B023
        grids = [(f.shape[2], f.shape[3]) for f in features[: preset.rpn_levels]]
        shape = (batch.shape[2], batch.shape[3])
        proposals = timed("proposals", lambda: propose(preset, objectness, deltas, grids, shape, sizes))  # noqa: B023
        rois, _, labels = timed("boxes", lambda: network.detect(features, proposals, sizes))  # noqa: B023
        masks = timed("masks", lambda: network.outline(features, rois, labels))  # noqa: B023
        scale = torch.tensor(image.shape[:2]) / torch.tensor(resized)
        boxes = rois[:, 1:] * scale[[1, 0, 1, 0]]
        timed("rle", lambda: rle.encode(masks, boxes, *image.shape[:2], paste=preset.mask_paste))  # noqa: B023
    return {stage: round(statistics.median(times), 4) for stage, times in spent.items()}


def _input(network: MaskRCNN, image: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    return to_input([torch.from_numpy(image)], [size], network.preset, network.device, network.exact)


@torch.inference_mode()
def _arithmetic(checkpoint: Checkpoint, network: MaskRCNN, image: np.ndarray, rounds: int) -> dict[str, float]:
    """Operations of the forward pass, and its rate beside that of a plain matrix product of its precision."""
    preset = network.preset
    resized = resized_size(*image.shape[:2], preset)
    batch = _input(network, image, resized)
    sizes = torch.tensor([resized])
    plain = load_model(checkpoint, precision="fp32", device="cpu")  # its layers are PyTorch's, which can be counted
    with FlopCounterMode(display=False) as counter:
        plain(batch, sizes)
    a, b = (torch.randn(MATRIX, MATRIX).to(network.dtype) for _ in range(2))
    seconds = alternate({"forward": lambda: network(batch, sizes), "matrix product": lambda: a @ b}, max(rounds, 5))
    forward = counter.get_total_flops() / statistics.median(seconds["forward"]) / 1e9
    matrix = 2 * MATRIX**3 / statistics.median(seconds["matrix product"]) / 1e9
    return {
        "forward_gflop": round(counter.get_total_flops() / 1e9, 1),
        "forward_gflops": round(forward, 1),
        "matrix_gflops": round(matrix, 1),
        "share": round(forward / matrix, 3),
    }


def _show(
    report: dict[str, Any], stages: dict[str, float], arithmetic: dict[str, float], about: dict[str, Any]
) -> None:
    console.print(f"{about['images']} images of {', '.join(about['sources'])}, detections {about['detections']}")
    table = Table("", "s an image", "times torchvision", box=None, pad_edge=False)
    for name, figures in report.items():
        table.add_row(name, f"{figures['seconds_per_image']:.3f}", f"{figures['times_torchvision']:.2f}x")
    console.print(table)
    console.print("stages of ours, s: " + ", ".join(f"{k} {v:.3f}" for k, v in stages.items()))
    console.print(
        f"forward pass: {arithmetic['forward_gflop']} GFLOP at {arithmetic['forward_gflops']:.0f} GFLOP/s, "
        f"{arithmetic['share']:.0%} of a matrix product's {arithmetic['matrix_gflops']:.0f}"
    )
