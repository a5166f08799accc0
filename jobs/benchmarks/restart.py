"""`maskfleet benchmark restart`: what it costs to start a job again that is nearly done."""

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

LARGEST = 60_000  # bytes of the demo's pictures that are taken: the small ones, so that many can be done


@errors_to_exit
def restart(
    images: Annotated[int, typer.Option(min=100, help="Images in all, in tar shards of 100.")] = 2000,
    share: Annotated[float, typer.Option(min=0.01, max=0.99, help="Of them done at first.")] = 0.99,
    as_json: AsJson = False,
) -> None:
    """Time a job up to a share of its images, then the same command again, which does the rest; each in a process."""
    with tempfile.TemporaryDirectory() as folder:
        shards, output = Path(folder, "shards"), Path(folder, "out")
        _shards(shards, images)
        first = _seconds(shards, output, "--limit", str(int(images * share)))
        again = _seconds(shards, output)
        nothing = _seconds(shards, output)
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
    console.print(f"the first {share:.0%} of {images:,} images  {first:.1f} s")
    console.print(f"started again, the rest  {again:.1f} s, {report['again_of_all']:.1%} of both")
    console.print(f"and again, nothing to do  {nothing:.1f} s")
    return None


def _shards(folder: Path, images: int) -> None:
    folder.mkdir()
    pictures = [p.read_bytes() for p in sorted((DATA / "images").iterdir()) if p.stat().st_size < LARGEST]
    for start in range(0, images, 100):
        with tarfile.open(folder / f"{start // 100:05d}.tar", "w") as tar:
            for i in range(start, min(start + 100, images)):
                info = tarfile.TarInfo(f"{i:07d}.png")
                info.size = len(pictures[i % len(pictures)])
                tar.addfile(info, io.BytesIO(pictures[i % len(pictures)]))


def _seconds(*arguments: object) -> float:
    err.print(f"[dim]segment {' '.join(str(a) for a in arguments[2:])}[/]")
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "jobs.main", "segment", *map(str, arguments)], check=True, stdout=sys.stderr)
    return time.monotonic() - began
