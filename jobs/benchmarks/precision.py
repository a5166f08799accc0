"""`maskfleet benchmark precision`: measures how much mask AP half precision costs, and in which part."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from jobs.terminal.console import AsJson, console, err, errors_to_exit, print_json


@errors_to_exit
def benchmark_precision(
    weights: Annotated[str, typer.Option(help="A shipped name; measured on the sample images.")] = "nuclei",
    as_json: AsJson = False,
) -> None:
    """Measure mask AP on the 48 sample images with parts of the network in bfloat16.

    Float32 comes first, then the default (layers in bfloat16, everything between them in float32), then the default
    with one more part rounded to bfloat16, and last torchvision's network with PyTorch's autocast.
    """
    from jobs.benchmarks import precision_parts
    from jobs.benchmarks.model_sides import load_networks
    from model import load_model

    exact, half = (load_model(weights, precision=p, device="cpu") for p in ("fp32", "bf16"))
    _, reference = load_networks(weights)
    ours = precision_parts.our_predictions(half)
    mask_ap = {}
    for name, predict, rounded_part in (
        ("fp32", precision_parts.our_predictions(exact), ""),
        ("layers", ours, ""),
        ("layers, boxes", ours, "boxes"),
        ("layers, scores", ours, "scores"),
        ("layers, masks", ours, "masks"),
        ("torchvision, autocast", precision_parts.autocast_predictions(reference), ""),
    ):
        with precision_parts.round_to_bfloat16(half, rounded_part):
            mask_ap[name] = precision_parts.mask_average_precision(predict)
        err.print(f"[dim]{name}: {mask_ap[name]:.4f}[/]")
    if as_json:
        return print_json(mask_ap)
    table = Table("in bfloat16", "mask AP", "against fp32", box=None, pad_edge=False)
    for name, ap in mask_ap.items():
        table.add_row(name if name != "fp32" else "nothing", f"{ap:.4f}", f"{ap - mask_ap['fp32']:+.4f}")
    console.print(table)
    return None
