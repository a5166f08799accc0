"""`maskfleet evaluate`: the COCO average precision of an output."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from jobs.terminal.console import AsJson, StorageOptions, console, errors_to_exit, print_json, storage_options

HEADINGS = {
    "AP": "AP",
    "AP50": "AP50",
    "AP75": "AP75",
    "AP_small": "small",
    "AP_medium": "medium",
    "AP_large": "large",
}


@errors_to_exit
def evaluate(
    output: Annotated[str, typer.Argument(help="The OUTPUT of `maskfleet segment`, a folder or URL.")],
    annotations: Annotated[
        str, typer.Argument(metavar="ANN.json", help="A COCO instances file with masks, a path or URL.")
    ],
    max_detections: Annotated[
        int, typer.Option(min=1, help="Use this many detections per image, best scores first. COCO uses 100.")
    ] = 500,
    storage_option: StorageOptions = None,
    as_json: AsJson = False,
) -> None:
    """Measure mask and box AP against COCO annotations, with pycocotools.

    Images are matched by file name, also inside tar shards. Only annotated
    images that have a row in the output are compared. A failed image counts as
    an image without detections.

    [bold]Example[/]

    maskfleet evaluate s3://lab/masks instances_val2017.json --max-detections 100
    """
    from pipeline.analysis.evaluate import evaluate as measure
    from pipeline.storage import place

    figures = measure(place(output, storage_options(storage_option)), str(annotations), max_detections)
    if as_json:
        print_json(figures)
    else:
        _show(figures)


def _show(figures: dict[str, Any]) -> None:
    """Prints the APs, what they were measured on, and what was left out."""
    table = Table("COCO AP", *HEADINGS.values(), box=None, pad_edge=False, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, kind in (("masks", "segm"), ("boxes", "bbox")):
        table.add_row(name, *("-" if figures[kind][k] is None else f"{figures[kind][k]:.3f}" for k in HEADINGS))
    console.print(table)
    console.print(
        f"{figures['images']:,} images, {figures['instances']:,} annotated instances, "
        f"{figures['detections']:,} detections, maxDets {figures['max_detections']}",
        soft_wrap=True,
    )
    notes = {
        "images_failed": "of them failed and count as images without detections",
        "images_without_result": "annotated images have no row in the output and are left out",
        "images_without_annotation": "images of the output are not annotated and are left out",
    }
    for key, text in notes.items():
        if figures[key]:
            console.print(f"{figures[key]:,} {text}", soft_wrap=True)
    if unmatched := figures["categories_unmatched"]:
        console.print(f"categories that the output does not have: {', '.join(unmatched)}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    typer.run(evaluate)
