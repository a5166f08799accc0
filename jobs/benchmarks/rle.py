"""`maskfleet benchmark rle`: encodes masks as COCO RLE with our encoder and with torchvision and pycocotools."""

from __future__ import annotations

import statistics
from typing import Annotated

import typer

from jobs.benchmarks.timing import alternate, extra_memory, speedup
from jobs.terminal.console import USAGE, AsJson, console, errors_to_exit, fail, print_json


@errors_to_exit
def benchmark_rle(
    size: Annotated[
        list[str] | None,
        typer.Option(metavar="HxW", help="Image size; may be given several times. Default: 480x640 and 3000x4000."),
    ] = None,
    instances: Annotated[int, typer.Option(min=1, help="Instances per image.")] = 100,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; medians are reported.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Encode boxes and 28x28 masks as COCO RLE.

    Compares our encoder with torchvision's paste followed by pycocotools' encode.
    """
    import torch

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
    """Measures median seconds and peak extra memory of both sides, for boxes of up to half the image's side."""
    import numpy as np
    import torch
    from pycocotools import mask as coco_mask
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    from model import rle

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
        raise RuntimeError("the encoders disagree")
    seconds = alternate({"paste + encode": reference, "maskfleet": ours}, rounds)
    return {
        "reference": round(statistics.median(seconds["paste + encode"]), 5),
        "ours": round(statistics.median(seconds["maskfleet"]), 5),
        "ratio": round(speedup(seconds["paste + encode"], seconds["maskfleet"]), 1),
        "reference_mb": extra_memory(reference),
        "ours_mb": extra_memory(ours),
    }
