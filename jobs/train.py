"""`maskfleet train`: trains a Mask R-CNN on COCO annotations. The shipped weights were made with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from jobs.terminal.console import USAGE, AsJson, console, err, errors_to_exit, fail, print_json
from model.preset import Preset
from model.training.architectures import TRUNKS, use_finest_level


@errors_to_exit
def train(
    annotations: Annotated[Path, typer.Argument(metavar="ANN.json", help="COCO instances file.", exists=True)],
    images: Annotated[Path, typer.Argument(help="Folder of its images.", exists=True, file_okay=False)],
    to: Annotated[Path, typer.Argument(metavar="DST", help="Checkpoint to write, such as cells.safetensors.")],
    start: Annotated[
        str | None, typer.Option("--from", help="Fine-tune these weights (a shipped name, path or URI).")
    ] = None,
    val: Annotated[
        Path | None, typer.Option(help="COCO instances file to measure AP on at the end.", exists=True)
    ] = None,
    minutes: Annotated[
        float, typer.Option(min=0.1, help="Time limit. The learning rate reaches zero with it.")
    ] = 120.0,
    steps: Annotated[int, typer.Option(min=1, help="Maximum number of steps.")] = 9000,
    batch: Annotated[int, typer.Option(min=1, help="Crops per step.")] = 4,
    lr: Annotated[float, typer.Option(min=0, help="Peak learning rate of AdamW.")] = 1e-3,
    crop: Annotated[int, typer.Option(min=64, help="Side of a crop in pixels of the network's input.")] = 384,
    min_size: Annotated[int, typer.Option(min=64, help="Shorter side of an image in the network's input.")] = 640,
    max_size: Annotated[int, typer.Option(min=64, help="Limit for the longer side.")] = 1333,
    max_detections: Annotated[int, typer.Option(min=1, help="Maximum number of instances per image.")] = 500,
    balance: Annotated[
        str | None, typer.Option(help="Key of the image records. Images with rare values are drawn more often.")
    ] = None,
    trunk: Annotated[str, typer.Option(help=f"Trunk of a network from scratch: {', '.join(TRUNKS)}.")] = "small",
    finest_anchors: Annotated[
        str | None,
        typer.Option(
            metavar="SIZES",
            help="Take proposals from the finest feature map only, with anchors of these sizes, such as 16,40,100.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of initial weights and crops.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train a Mask R-CNN on the CPU, from scratch or from other weights.

    The network and the losses are torchvision's. The state of the run is saved next to DST every five minutes. After
    an interruption, the same command continues from the last save.

    [bold]Example[/]

    maskfleet train train.json images/ cells.safetensors --val val.json --minutes 90
    """
    if to.suffix != ".safetensors":
        fail(f"{to}: the checkpoint is written as safetensors, so its name must end in .safetensors", USAGE)
    from model import read_checkpoint
    from model.checkpoints.save import write_checkpoint
    from model.training import loop
    from model.training.crops import CropOptions, TrainingData

    parent = read_checkpoint(start) if start else None
    preset = _preset(annotations, parent.preset if parent else _trunk_preset(trunk), finest_anchors)
    preset = preset.replace(name=to.stem, min_size=min_size, max_size=max_size, max_detections=max_detections)
    recipe = loop.Recipe(steps=steps, minutes=minutes, batch=batch, lr=lr, seed=seed)
    data = TrainingData(annotations, images, CropOptions(size=crop, min_size=min_size, max_size=max_size), balance)
    with _progress_bar() as report:
        weights = parent.state if parent else None
        state, provenance = loop.train(preset, data, recipe, weights, to.with_suffix(".training"), report)
    provenance |= {"data": annotations.name, "data_sha256": hashlib.sha256(annotations.read_bytes()).hexdigest()}
    provenance |= {"made": datetime.now(UTC).date().isoformat(), "torch": version("torch")}
    provenance |= {"from": start, "balance": balance}
    write_checkpoint(to, state, preset, provenance)
    if val:
        provenance |= {"val": validate(to, val, images)}
        write_checkpoint(to, state, preset, provenance)
    if as_json:
        print_json({"weights": str(to), "bytes": to.stat().st_size} | provenance)
        return
    if val:
        ap = provenance["val"]
        console.print(f"mask AP {ap['segm']['AP']:.3f}, box AP {ap['bbox']['AP']:.3f} on {val.name}")
    console.print(f"wrote {to} ({to.stat().st_size / 1e6:.1f} MB)", soft_wrap=True)


def validate(weights: str | Path, annotations: Path, images: Path) -> dict[str, Any]:
    """Measures box and mask AP of a checkpoint on a COCO dataset, in float32.

    Args:
        weights: a shipped name or a path.
        annotations: COCO instances file.
        images: folder of its images.

    Returns:
        The figures of `average_precision`, with the name of the dataset and its number of images.
    """
    import numpy as np
    from PIL import Image

    from model import load_model, rle
    from pipeline.analysis.coco_ap import average_precision

    network = load_model(weights, precision="fp32")
    dataset = json.loads(annotations.read_text())
    results = []
    for record in dataset["images"]:
        pixels = np.array(Image.open(images / record["file_name"]).convert("RGB"))
        found = network.predict([pixels])[0]
        counts = rle.encode(found.masks, found.boxes, *pixels.shape[:2], paste=network.preset.mask_paste)
        results += [
            {
                "image_id": record["id"],
                "category_id": network.preset.category_ids[int(label) - 1],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": float(score),
                "segmentation": {"size": list(pixels.shape[:2]), "counts": text},
            }
            for (x1, y1, x2, y2), score, label, text in zip(
                found.boxes.tolist(), found.scores, found.labels, counts, strict=True
            )
        ]
    figures = average_precision(dataset, results, network.preset.max_detections)
    about = {"data": annotations.name, "images": len(dataset["images"])}
    return figures | about | {"max_detections": network.preset.max_detections}


@contextmanager
def _progress_bar() -> Iterator[Callable[[int, float, dict[str, float]], None]]:
    """Shows progress on stderr: a bar on a terminal, and a line every 100 steps elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"), TimeElapsedColumn())
    with Progress(*columns, console=err) as bar:
        task = bar.add_task("training", total=1.0, state="")

        def report(step: int, progress: float, losses: dict[str, float]) -> None:
            state = f"step {step:,}  loss {sum(losses.values()):.3f}  mask {losses['loss_mask']:.3f}"
            bar.update(task, completed=progress, state=state)
            if not err.is_terminal and step % 100 == 0:
                err.print(f"{progress:.1%}  {state}")

        yield report


def _trunk_preset(trunk: str) -> Preset:
    if trunk not in TRUNKS:
        fail(f"no trunk {trunk!r}; there are {', '.join(TRUNKS)}", USAGE)
    return TRUNKS[trunk]


def _preset(annotations: Path, architecture: Preset, finest_anchors: str | None) -> Preset:
    """Returns the architecture with the classes of the dataset, and with the RPN design that the options ask for."""
    categories = json.loads(annotations.read_text())["categories"]
    preset = architecture.replace(
        category_ids=[c["id"] for c in categories], categories=[c["name"] for c in categories]
    )
    if finest_anchors is None:
        return preset
    try:
        sizes = [float(size) for size in finest_anchors.split(",")]
    except ValueError:
        fail(f"--finest-anchors {finest_anchors!r} is not a list of sizes such as 16,40,100", USAGE)
    return use_finest_level(preset, sizes)


if __name__ == "__main__":
    typer.run(train)
