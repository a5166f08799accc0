"""`maskfleet benchmark`: the figures in BENCHMARKS.md, each from one command."""

from __future__ import annotations

import statistics
from typing import Annotated

import numpy as np
import torch
import typer
from pycocotools import mask as coco_mask
from torchvision.models.detection.roi_heads import paste_masks_in_image

from jobs.benchmarks.catalog import catalog_
from jobs.benchmarks.gpu import gpu
from jobs.benchmarks.model import model
from jobs.benchmarks.precision import precision
from jobs.benchmarks.restart import restart
from jobs.benchmarks.slide import slide
from jobs.benchmarks.timing import alternate, extra_memory, ratio
from jobs.terminal.console import USAGE, AsJson, console, errors_to_exit, fail, print_json
from model import rle

app = typer.Typer(help="Measure on this machine. Both sides of a comparison run in one process, in alternation.")


app.command("catalog")(catalog_)
app.command("model")(model)
app.command("precision")(precision)
app.command("restart")(restart)
app.command("slide")(slide)
app.command("gpu")(gpu)


@app.command("rle")
@errors_to_exit
def rle_(
    size: Annotated[
        list[str] | None, typer.Option(metavar="HxW", help="Of the image; may be given again. 480x640 and 3000x4000.")
    ] = None,
    instances: Annotated[int, typer.Option(min=1)] = 100,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    as_json: AsJson = False,
) -> None:
    """Boxes and 28x28 masks to COCO RLE: ours beside torchvision's paste and pycocotools' encode."""
    try:
        sizes = [tuple(int(side) for side in text.split("x")) for text in size or ["480x640", "3000x4000"]]
        reports = {f"{height}x{width}": _measure(height, width, instances, rounds) for height, width in sizes}
    except ValueError:
        fail(f"--size {size} is not like 480x640", USAGE)
    if as_json:
        return print_json(reports | {"instances": instances, "rounds": rounds, "threads": torch.get_num_threads()})
    for name, r in reports.items():
        console.print(
            f"{instances} instances at {name}: paste + encode {r['reference']:.4f} s, ours {r['ours']:.4f} s, "
            f"{r['ratio']:.0f}x; extra memory {r['reference_mb']} MB and {r['ours_mb']} MB"
        )
    return None


def _measure(height: int, width: int, instances: int, rounds: int) -> dict[str, float | None]:
    """Median seconds and peak extra memory of both sides, for boxes of up to half the image."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(instances, 2, generator=generator)
    side = (1 - corner) * torch.rand(instances, 2, generator=generator) * 0.5
    boxes = torch.cat([corner, corner + side], 1) * torch.tensor([width, height, width, height])
    coarse = torch.rand(instances, 1, 7, 7, generator=generator)
    masks = torch.nn.functional.interpolate(coarse, (28, 28), mode="bilinear")[:, 0]

    def reference() -> list[dict[str, bytes]]:
        pasted = (paste_masks_in_image(masks[:, None], boxes, (height, width)) > 0.5).numpy()
        return coco_mask.encode(np.asfortranarray(pasted[:, 0].transpose(1, 2, 0).astype(np.uint8)))

    def ours() -> list[str]:
        return rle.encode(masks, boxes, height, width)

    if [r["counts"].decode() for r in reference()] != ours():
        raise RuntimeError("the two sides do not agree")
    seconds = alternate({"paste + encode": reference, "maskfleet": ours}, rounds)
    return {
        "reference": round(statistics.median(seconds["paste + encode"]), 5),
        "ours": round(statistics.median(seconds["maskfleet"]), 5),
        "ratio": round(ratio(seconds["paste + encode"], seconds["maskfleet"]), 1),
        "reference_mb": extra_memory(reference),
        "ours_mb": extra_memory(ours),
    }


if __name__ == "__main__":
    app()
