"""The `maskfleet` command: one file of this folder a subcommand."""

from __future__ import annotations

import typer

from jobs import benchmark, demo, evaluate, query, segment, status, train, weights

app = typer.Typer(
    help="Offline instance segmentation at fleet scale: images in object storage in, Parquet with COCO RLE masks out.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,  # locals may hold credentials
)
app.command()(segment.segment)
app.command()(status.status)
app.command()(query.query)
app.command()(evaluate.evaluate)
app.command()(demo.demo)
app.command()(train.train)
app.add_typer(weights.app, name="weights")
app.add_typer(benchmark.app, name="benchmark")

if __name__ == "__main__":
    app()
