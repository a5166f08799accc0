"""`maskfleet benchmark`: reproduces the figures in BENCHMARKS.md with one subcommand each."""

from __future__ import annotations

import typer

from jobs.benchmarks.catalog import benchmark_catalog
from jobs.benchmarks.gpu import benchmark_gpu
from jobs.benchmarks.model import benchmark_model
from jobs.benchmarks.precision import benchmark_precision
from jobs.benchmarks.restart import benchmark_restart
from jobs.benchmarks.rle import benchmark_rle
from jobs.benchmarks.slide import benchmark_slide

app = typer.Typer(
    help="Measure the performance of this machine. Both sides of a comparison run alternately in one process."
)
app.command("catalog")(benchmark_catalog)
app.command("model")(benchmark_model)
app.command("precision")(benchmark_precision)
app.command("restart")(benchmark_restart)
app.command("slide")(benchmark_slide)
app.command("gpu")(benchmark_gpu)
app.command("rle")(benchmark_rle)

if __name__ == "__main__":
    app()
