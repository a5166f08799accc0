"""The `maskfleet` command: one file of this folder a subcommand, imported when it is called.

PyTorch and Ray take seconds to import; who only queries an output should not wait for them.
"""

from __future__ import annotations

import importlib
from typing import Any

import typer
from typer.core import TyperGroup

COMMANDS = ("segment", "status", "query", "evaluate", "weights", "train", "demo", "benchmark")


class Commands(TyperGroup):
    """The subcommands by name. A module of `jobs` has an `app`, or a function of its own name."""

    def list_commands(self, ctx: typer.Context) -> list[str]:
        """In the order in which a user meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:
        """Imports the command."""
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
    help="Offline instance segmentation at fleet scale: images in object storage in, Parquet with COCO RLE masks out.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,  # locals may hold credentials
)


@app.callback()
def main() -> None:
    """Offline instance segmentation at fleet scale: images in object storage in, Parquet with COCO RLE masks out."""


if __name__ == "__main__":
    app()
