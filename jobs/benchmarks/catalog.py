"""`maskfleet benchmark catalog`: measures time and memory for cataloguing a very large number of loose images."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from jobs.benchmarks.timing import extra_memory
from jobs.terminal.console import AsJson, console, err, errors_to_exit, print_json

IMAGES_PER_FOLDER = 1000


@errors_to_exit
def benchmark_catalog(
    images: Annotated[int, typer.Option(min=1, help="Loose images, 1000 in a folder, on the local disk.")] = 1_000_000,
    as_json: AsJson = False,
) -> None:
    """Catalogue loose images as `segment` does before it starts.

    Runs twice: the second time, no image is new. The files are empty, because a catalog holds addresses and lengths
    and never opens a loose image.
    """
    from pipeline.catalog import catalog, inputs
    from pipeline.catalog.id_set import NO_IDS
    from pipeline.storage import place

    with tempfile.TemporaryDirectory() as folder:
        root, output = Path(folder, "images"), place(Path(folder, "out"))
        err.print(f"making {images:,} files")
        _make_files(root, images)
        runs = []
        for _ in range(2):
            started = time.perf_counter()
            memory = extra_memory(lambda: catalog.update(output, inputs.find_containers([place(root)], output), NO_IDS))
            runs.append((time.perf_counter() - started, memory))
        catalog_bytes = sum(p.stat().st_size for p in Path(folder, "out").rglob("*.parquet"))
    report = {
        "images": images,
        "seconds": round(runs[0][0], 1),
        "seconds_again": round(runs[1][0], 1),
        "extra_mb": runs[0][1],
        "extra_mb_again": runs[1][1],
        "catalog_bytes": catalog_bytes,
    }
    if as_json:
        return print_json(report)
    for name, (seconds, memory) in zip(("first run", "second run"), runs, strict=True):
        console.print(f"{images:,} images, {name}: {seconds:.1f} s, at most {memory} MB more than before")
    console.print(f"size of the catalog: {decimal(catalog_bytes)}")
    return None


def _make_files(root: Path, images: int) -> None:
    """Creates empty image files in numbered folders."""
    for start in range(0, images, IMAGES_PER_FOLDER):
        folder = root / f"{start // IMAGES_PER_FOLDER:06d}"
        folder.mkdir(parents=True)
        for i in range(start, min(start + IMAGES_PER_FOLDER, images)):
            (folder / f"{i:09d}.jpg").touch()
