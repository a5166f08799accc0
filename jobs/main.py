"""The `maskfleet` command. Each subcommand is a module of this package.

All of these modules import PyTorch, Ray and other large libraries inside their functions, so that help and small
commands start at once.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

COMMANDS = ("segment", "status", "query", "evaluate", "weights", "train", "demo", "benchmark")


class Commands(TyperGroup):
    """The subcommands, imported when they are needed.

    A module has either an `app` or a function of its own name.
    """

    def list_commands(self, ctx: typer.Context) -> list[str]:
        """Returns the names in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:
        """Imports a subcommand; None if there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"jobs.{cmd_name}")
        group = getattr(module, "app", None)
        if group is None:
            group = typer.Typer(rich_markup_mode="rich", add_completion=False)
            group.command()(getattr(module, cmd_name))
        command = typer.main.get_command(group)
        command.name = cmd_name
        return command


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
