"""`maskfleet benchmark slide`: the memory and time that one very large image takes, in tiles."""

from __future__ import annotations

import tempfile
from itertools import cycle
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image
from rich.filesize import decimal

from jobs.sample import DATA
from jobs.terminal.console import AsJson, console, err, errors_to_exit, print_json
from jobs.terminal.live_display import Display
from model.masks.tile_grid import Tiling
from pipeline.job import Options, run
from pipeline.storage import place


@errors_to_exit
def slide(
    side: Annotated[int, typer.Option(min=256, help="Pixels of a side of the image.")] = 20_000,
    tile: Annotated[int, typer.Option(min=32, help="Pixels of a side of a tile.")] = 1024,
    overlap: Annotated[int, typer.Option(min=0, help="Pixels that neighbouring tiles share.")] = 128,
    as_json: AsJson = False,
) -> None:
    """Segment one image made of the demo's pictures side by side, and report the peak memory of each stage.

    Decoded, the image itself is 3 bytes a pixel; what is above that is the job's.
    """
    with tempfile.TemporaryDirectory() as folder:
        err.print(f"making an image of {side}x{side} pixels")
        file = _mosaic(Path(folder, "slide.tif"), side)
        options = Options((place(file),), place(Path(folder, "out")), tile=tile, overlap=overlap)
        with Display() as display:
            record = run(options, display)
    stages = {name: stage["peak_memory"] for name, stage in record["stages"].items()}
    report = {
        "side": side,
        "tiles": len(Tiling(tile, overlap).grid(side, side)),
        "pixels_bytes": 3 * side * side,
        "peak_memory": stages | {"driver": record["peak_memory_of_driver"]},
        "instances": record["instances"],
        "failed": record["failed"],
        "seconds": record["seconds"],
    }
    if as_json:
        return print_json(report)
    console.print(f"{report['tiles']} tiles, {report['instances']:,} instances, {report['seconds']:.0f} s")
    console.print(f"the decoded image: {decimal(report['pixels_bytes'])}; at most in one process:")
    for name, size in report["peak_memory"].items():
        console.print(f"  {name:8} {decimal(size)}")
    return None


def _mosaic(file: Path, side: int) -> Path:
    """The demo's pictures, over and over, as one TIFF."""
    pictures = cycle([Image.open(p).convert("RGB") for p in sorted((DATA / "images").iterdir())])
    canvas = Image.new("RGB", (side, side))
    y = 0
    while y < side:
        x = height = 0
        while x < side:
            picture = next(pictures)
            canvas.paste(picture, (x, y))
            x, height = x + picture.width, max(height, picture.height)
        y += height
    canvas.save(file, compression="tiff_lzw")
    return file
