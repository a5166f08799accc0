"""`maskfleet train`: a small Mask R-CNN from COCO annotations; this made the shipped weights."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from jobs.terminal.console import USAGE, AsJson, console, err, errors_to_exit, fail, print_json
from model import Preset, load_model, read_checkpoint, rle
from model.checkpoints.architectures import TRUNKS, finest
from model.checkpoints.save import write_checkpoint
from model.training.crops import CropOptions
from model.training.loop import Recipe
from model.training.loop import train as run_training
from pipeline.analysis.evaluate import average_precision


@errors_to_exit
def train(
    annotations: Annotated[Path, typer.Argument(metavar="ANN.json", help="COCO instances.", exists=True)],
    images: Annotated[Path, typer.Argument(help="The folder of its images.", exists=True, file_okay=False)],
    to: Annotated[Path, typer.Argument(metavar="DST", help="The checkpoint to write, such as cells.safetensors.")],
    start: Annotated[
        str | None, typer.Option("--from", help="Fine-tune these weights (a shipped name, path or URI).")
    ] = None,
    val: Annotated[Path | None, typer.Option(help="COCO instances to measure AP on at the end.", exists=True)] = None,
    minutes: Annotated[float, typer.Option(min=0.1, help="Time for training; the schedule ends with it.")] = 120.0,
    steps: Annotated[int, typer.Option(min=1, help="Most steps.")] = 9000,
    batch: Annotated[int, typer.Option(min=1, help="Crops in a step.")] = 4,
    lr: Annotated[float, typer.Option(min=0, help="Peak learning rate of AdamW.")] = 1e-3,
    crop: Annotated[int, typer.Option(min=64, help="Side of a crop, pixels of the network's input.")] = 384,
    min_size: Annotated[int, typer.Option(min=64, help="Shorter side at which the network sees an image.")] = 640,
    max_size: Annotated[int, typer.Option(min=64, help="Cap on the longer side.")] = 1333,
    max_detections: Annotated[int, typer.Option(min=1, help="Most instances in an image.")] = 500,
    balance: Annotated[
        str | None, typer.Option(help="A key of the image records: images with rare values are drawn more often.")
    ] = None,
    trunk: Annotated[str, typer.Option(help=f"Of a network from scratch: {', '.join(TRUNKS)}.")] = "small",
    finest_anchors: Annotated[
        str | None,
        typer.Option(
            metavar="SIZES",
            help="Proposals from the finest map alone, with anchors of these sizes, such as 16,40,100.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights and crops.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train a Mask R-CNN on the CPU, from scratch or from other weights.

    The loop and the losses are torchvision's. Interrupted, it goes on from its last save (every five minutes, beside
    DST) when the same command is given again.

    [bold]Example[/]

    maskfleet train train.json images/ cells.safetensors --val val.json --minutes 90
    """
    if to.suffix != ".safetensors":
        fail(f"{to}: the checkpoint is written as safetensors, so its name must end in .safetensors", USAGE)
    parent = read_checkpoint(start) if start else None
    preset = _preset(annotations, parent.preset if parent else _shape(trunk), finest_anchors)
    preset = preset.replace(name=to.stem, min_size=min_size, max_size=max_size, max_detections=max_detections)
    recipe = Recipe(steps=steps, minutes=minutes, batch=batch, lr=lr, seed=seed)
    crops = CropOptions(size=crop, min_size=min_size, max_size=max_size)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"), TimeElapsedColumn())
    with Progress(*columns, console=err) as bar:
        task = bar.add_task("training", total=1.0, state="")

        def report(step: int, progress: float, losses: dict[str, float]) -> None:
            state = f"step {step:,}  loss {sum(losses.values()):.3f}  mask {losses['loss_mask']:.3f}"
            bar.update(task, completed=progress, state=state)
            if not err.is_terminal and step % 100 == 0:
                err.print(f"{progress:.1%}  {state}")

        saved = to.with_suffix(".training")
        state, done = run_training(
            preset, annotations, images, recipe, crops, balance, parent.state if parent else None, saved, report
        )
    done |= {"data": annotations.name, "data_sha256": hashlib.sha256(annotations.read_bytes()).hexdigest()}
    done |= {"made": datetime.now(UTC).date().isoformat(), "torch": version("torch"), "from": start, "balance": balance}
    write_checkpoint(to, state, preset, done)
    if val:
        done |= {"val": measure(to, val, images)}
        write_checkpoint(to, state, preset, done)
    if as_json:
        print_json({"weights": str(to), "bytes": to.stat().st_size} | done)
        return
    if val:
        console.print(f"mask AP {done['val']['segm']['AP']:.3f}, box AP {done['val']['bbox']['AP']:.3f} on {val.name}")
    console.print(f"wrote {to} ({to.stat().st_size / 1e6:.1f} MB)", soft_wrap=True)


def measure(weights: Path, annotations: Path, images: Path) -> dict[str, Any]:
    """Box and mask AP of a checkpoint on a COCO dataset, float32."""
    network = load_model(weights, precision="fp32")
    dataset = json.loads(annotations.read_text())
    results = []
    for record in dataset["images"]:
        pixels = np.array(Image.open(images / record["file_name"]).convert("RGB"))
        found = network.predict([pixels])[0]
        counts = rle.encode(found.masks, found.boxes, *pixels.shape[:2], paste=network.preset.mask_paste)
        for box, score, label, text in zip(found.boxes, found.scores, found.labels, counts, strict=True):
            segmentation = {"size": list(pixels.shape[:2]), "counts": text}
            results.append(
                {
                    "image_id": record["id"],
                    "category_id": network.preset.category_ids[int(label) - 1],
                    "bbox": _xywh(box.tolist()),
                    "score": float(score),
                    "segmentation": segmentation,
                }
            )
    figures = average_precision(dataset, results, network.preset.max_detections)
    about = {"data": annotations.name, "images": len(dataset["images"])}
    return figures | about | {"max_detections": network.preset.max_detections}


def _xywh(box: list[float]) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def _shape(trunk: str) -> Preset:
    if trunk not in TRUNKS:
        fail(f"no trunk {trunk!r}; there are {', '.join(TRUNKS)}", USAGE)
    return TRUNKS[trunk]


def _preset(annotations: Path, shape: Preset, finest_anchors: str | None) -> Preset:
    """The network to train: that shape, with the classes of the dataset and the proposals asked for."""
    categories = json.loads(annotations.read_text())["categories"]
    shape = shape.replace(category_ids=[c["id"] for c in categories], categories=[c["name"] for c in categories])
    if finest_anchors is None:
        return shape
    try:
        sizes = [float(size) for size in finest_anchors.split(",")]
    except ValueError:
        fail(f"--finest-anchors {finest_anchors!r} is not a list of sizes such as 16,40,100", USAGE)
    return finest(shape, sizes)


if __name__ == "__main__":
    typer.run(train)
