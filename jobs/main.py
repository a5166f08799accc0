"""The `maskfleet` command. Each subcommand is a module of this package.

All of these modules import PyTorch, Ray and other large libraries inside their functions, so that help and small
commands start at once.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import typer

from jobs.terminal.lazy_group import LazyGroup


class Commands(LazyGroup):
    """The subcommands."""

    commands_at: ClassVar = {
        "segment": "jobs.segment:app",
        "status": "jobs.status:status",
        "query": "jobs.query:query",
        "evaluate": "jobs.evaluate:evaluate",
        "weights": "jobs.weights:app",
        "train": "jobs.train:train",
        "demo": "jobs.demo:demo",
        "benchmark": "jobs.benchmark:app",
    }


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,  # locals may hold credentials
)


def _print_version(wanted: bool) -> None:
    """Prints the version and exits."""
    if not wanted:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        number = version("maskfleet")
    except PackageNotFoundError:  # a working directory sent to a cluster is not installed
        number = "(not installed)"
    typer.echo(f"maskfleet {number}")
    raise typer.Exit


@app.callback()
def main(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Segment objects in large collections of images with Mask R-CNN.

    Reads images from object storage or disk, writes Parquet with COCO RLE masks.
    """


if __name__ == "__main__":
    app()
