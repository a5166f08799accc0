"""`maskfleet benchmark`: the figures in BENCHMARKS.md, each from one command."""

from __future__ import annotations

import statistics
from typing import Annotated

import numpy as np
import torch
import typer
from pycocotools import mask as coco_mask
from torchvision.models.detection.roi_heads import paste_masks_in_image

from jobs.benchmark_model import model
from jobs.console import AsJson, console, errors_to_exit, print_json
from jobs.timing import alternate, ratio
from model import rle

app = typer.Typer(help="Measure on this machine. Both sides of a comparison run in one process, in alternation.")


app.command("model")(model)


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

    def reference() -> None:
        pasted = (paste_masks_in_image(masks[:, None], boxes, (height, width)) > 0.5).numpy()
        coco_mask.encode(np.asfortranarray(pasted[:, 0].transpose(1, 2, 0).astype(np.uint8)))

    def ours() -> None:
        rle.encode(masks, boxes, height, width)

    seconds = alternate({"paste + encode": reference, "maskfleet": ours}, rounds)
    report = {k: round(statistics.median(v), 4) for k, v in seconds.items()}
    report["ratio"] = round(ratio(seconds["paste + encode"], seconds["maskfleet"]), 1)
    if as_json:
        return print_json(report)
    console.print(f"{instances} instances at {height}x{width}: {report}")
    return None


if __name__ == "__main__":
    app()
