"""`maskfleet benchmark catalog`: the time and memory that it takes to catalogue very many loose images."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from jobs.benchmarks.timing import extra_memory
from jobs.terminal.console import AsJson, console, err, errors_to_exit, print_json
from pipeline.catalog import catalog, inputs
from pipeline.catalog.id_set import NO_IDS
from pipeline.storage import place

FOLDER = 1000  # images in each


@errors_to_exit
def catalog_(
    images: Annotated[int, typer.Option(min=1, help="Loose images, 1000 in a folder, on the local disk.")] = 1_000_000,
    as_json: AsJson = False,
) -> None:
    """Catalogue loose images as `segment` does before it starts, twice: the second time none of them is new.

    The files are empty: a catalog holds addresses and lengths, and does not open a loose image.
    """
    with tempfile.TemporaryDirectory() as folder:
        root, output = Path(folder, "images"), place(Path(folder, "out"))
        err.print(f"making {images:,} files")
        for start in range(0, images, FOLDER):
            part = root / f"{start // FOLDER:06d}"
            part.mkdir(parents=True)
            for i in range(start, min(start + FOLDER, images)):
                (part / f"{i:09d}.jpg").touch()
        runs = []
        for _ in range(2):
            began = time.perf_counter()
            memory = extra_memory(lambda: catalog.update(output, inputs.find_containers([place(root)], output), NO_IDS))
            runs.append((time.perf_counter() - began, memory))
        parts = sum(p.stat().st_size for p in Path(folder, "out").rglob("*.parquet"))
    report = {
        "images": images,
        "seconds": round(runs[0][0], 1),
        "seconds_again": round(runs[1][0], 1),
        "extra_mb": runs[0][1],
        "extra_mb_again": runs[1][1],
        "catalog_bytes": parts,
    }
    if as_json:
        return print_json(report)
    for name, (seconds, memory) in zip(("the first time", "again"), runs, strict=True):
        console.print(f"{images:,} images, {name}: {seconds:.1f} s, at most {memory} MB more than before")
    console.print(f"the catalog: {decimal(parts)}")
    return None
