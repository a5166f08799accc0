"""`maskfleet benchmark`: reproduces the figures in BENCHMARKS.md with one subcommand each."""

from __future__ import annotations

from typing import ClassVar

import typer

from jobs.terminal.lazy_group import LazyGroup


class Benchmarks(LazyGroup):
    """The benchmarks."""

    commands_at: ClassVar = {
        name: f"jobs.benchmarks.{name}:benchmark_{name}"
        for name in ("catalog", "model", "precision", "restart", "slide", "gpu", "rle")
    }


app = typer.Typer(
    cls=Benchmarks,
    add_completion=False,
    help="Measure the performance of this machine. Both sides of a comparison run alternately in one process.",
)


@app.callback()
def benchmark() -> None:
    """Makes this a group, although Typer knows none of its commands yet."""


if __name__ == "__main__":
    app()
