"""`maskfleet benchmark slide`: measures memory and time for one very large image, segmented in tiles."""

from __future__ import annotations

import tempfile
from itertools import cycle
from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from jobs.sample import DATA
from jobs.terminal.console import AsJson, console, err, errors_to_exit, print_json


@errors_to_exit
def benchmark_slide(
    side: Annotated[int, typer.Option(min=256, help="Side of the image in pixels.")] = 20_000,
    tile: Annotated[int, typer.Option(min=32, help="Side of a tile in pixels.")] = 1024,
    overlap: Annotated[int, typer.Option(min=0, help="Pixels that neighbouring tiles share.")] = 128,
    as_json: AsJson = False,
) -> None:
    """Segment one image made of the sample images side by side, and report the peak memory of each stage.

    The decoded image takes 3 bytes per pixel. Memory above that is the job's.
    """
    from jobs.terminal.live_display import Display
    from model.masks.tile_grid import Tiling
    from pipeline.job import Options, run
    from pipeline.storage import place

    with tempfile.TemporaryDirectory() as folder:
        err.print(f"making an image of {side}x{side} pixels")
        file = _write_mosaic(Path(folder, "slide.tif"), side)
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
    console.print(f"decoded image: {decimal(report['pixels_bytes'])}; peak memory of a process of each stage:")
    for name, size in report["peak_memory"].items():
        console.print(f"  {name:8} {decimal(size)}")
    return None


def _write_mosaic(file: Path, side: int) -> Path:
    """Writes a square TIFF in which the sample images repeat."""
    from PIL import Image

    samples = cycle([Image.open(p).convert("RGB") for p in sorted((DATA / "images").iterdir())])
    canvas = Image.new("RGB", (side, side))
    y = 0
    while y < side:
        x = height = 0
        while x < side:
            sample = next(samples)
            canvas.paste(sample, (x, y))
            x, height = x + sample.width, max(height, sample.height)
        y += height
    canvas.save(file, compression="tiff_lzw")
    return file
