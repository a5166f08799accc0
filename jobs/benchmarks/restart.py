"""`maskfleet benchmark restart`: measures what it costs to restart a job that is almost done."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from jobs.sample import DATA
from jobs.terminal.console import AsJson, console, err, errors_to_exit, print_json

MAX_BYTES = 60_000  # of a sample image; only small ones are used, so that many can be processed
IMAGES_PER_SHARD = 100


@errors_to_exit
def benchmark_restart(
    images: Annotated[int, typer.Option(min=100, help="Number of images, in tar shards of 100.")] = 2000,
    share: Annotated[float, typer.Option(min=0.01, max=0.99, help="Share of them in the first run.")] = 0.99,
    as_json: AsJson = False,
) -> None:
    """Run a job on a share of its images, then run the same command again for the rest.

    A third run has nothing left to do. Each run is a process.
    """
    with tempfile.TemporaryDirectory() as folder:
        shards, output = Path(folder, "shards"), Path(folder, "out")
        _write_shards(shards, images)
        first = _segment_seconds(shards, output, "--limit", str(int(images * share)))
        again = _segment_seconds(shards, output)
        nothing = _segment_seconds(shards, output)
    report = {
        "images": images,
        "share": share,
        "seconds_first": round(first, 1),
        "seconds_again": round(again, 1),
        "seconds_nothing_to_do": round(nothing, 1),
        "again_of_all": round(again / (first + again), 4),
    }
    if as_json:
        return print_json(report)
    console.print(f"first {share:.0%} of {images:,} images: {first:.1f} s")
    console.print(f"restart for the rest: {again:.1f} s, {report['again_of_all']:.1%} of both runs")
    console.print(f"restart with nothing to do: {nothing:.1f} s")
    return None


def _write_shards(folder: Path, images: int) -> None:
    """Writes tar shards in which the small sample images repeat."""
    folder.mkdir()
    samples = [p.read_bytes() for p in sorted((DATA / "images").iterdir()) if p.stat().st_size < MAX_BYTES]
    for start in range(0, images, IMAGES_PER_SHARD):
        with tarfile.open(folder / f"{start // IMAGES_PER_SHARD:05d}.tar", "w") as tar:
            for i in range(start, min(start + IMAGES_PER_SHARD, images)):
                info = tarfile.TarInfo(f"{i:07d}.png")
                info.size = len(samples[i % len(samples)])
                tar.addfile(info, io.BytesIO(samples[i % len(samples)]))


def _segment_seconds(*arguments: object) -> float:
    """Runs `maskfleet segment` in a process and returns its duration."""
    err.print(f"[dim]segment {' '.join(str(a) for a in arguments[2:])}[/]")
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "jobs.main", "segment", *map(str, arguments)], check=True, stdout=sys.stderr)
    return time.monotonic() - started
