"""What every command shares: the terminal, one-line errors, JSON, storage options."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

from model import PresetError, RleError, WeightsError
from pipeline.errors import InputError

console = Console(highlight=False)
err = Console(stderr=True, highlight=False)

USAGE = 2  # exit status for something the user can put right in the command; 1 is anything else
Command = TypeVar("Command", bound=Callable[..., Any])

StorageOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--storage-option",
        metavar="KEY=VALUE",
        help="An fsspec storage option, such as anon=true or profile=lab; s3.anon=true is for s3:// alone. May be "
        "given several times.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]


def errors_to_exit(command: Command) -> Command:
    """Ends a command with one line on stderr and exit status 1 where the input is at fault."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (InputError, WeightsError, PresetError, RleError) as error:
            fail(str(error), 1)

    return run  # type: ignore[return-value]


def fail(message: str, status: int) -> None:
    """Prints `error: message` on stderr and exits."""
    err.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    raise typer.Exit(status)


def print_json(value: Any) -> None:
    """One JSON document on stdout, and nothing else."""
    json.dump(value, sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")


def key_values(pairs: list[str] | None, hint: str) -> dict[str, Any]:
    """`key=value` pairs as a dict; values that are JSON (true, 5, {...}) are read as such.

    Raises:
        typer.BadParameter: a pair without "=".
    """
    options: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{key!r} is not KEY=VALUE", param_hint=hint)
        try:
            options[key] = json.loads(value)
        except json.JSONDecodeError:
            options[key] = value
    return options


def storage_options(pairs: list[str] | None) -> dict[str, Any]:
    """fsspec's storage options from `--storage-option`."""
    return key_values(pairs, "--storage-option")
