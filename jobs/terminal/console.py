"""What all commands share: consoles, errors in one line, JSON, storage options."""

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
from pipeline.errors import InputError, OptionError

console = Console(highlight=False)
err = Console(stderr=True, highlight=False)

USAGE = 2  # exit status of errors that the user can correct in the command; others have 1
Command = TypeVar("Command", bound=Callable[..., Any])

StorageOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--storage-option",
        metavar="KEY=VALUE",
        help="An fsspec storage option, such as anon=true or profile=lab. s3.anon=true applies to s3:// only. Repeat "
        "it for several options.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]


def errors_to_exit(command: Command) -> Command:
    """Reports errors of the user's input in one line on stderr, with exit status 1, or 2 for an option."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except OptionError as error:
            fail(str(error), USAGE)
        except (InputError, WeightsError, PresetError, RleError) as error:
            fail(str(error), 1)

    return run  # type: ignore[return-value]


def fail(message: str, status: int) -> None:
    """Prints `error: message` on stderr and exits."""
    err.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    raise typer.Exit(status)


def print_json(value: Any) -> None:
    """Writes one JSON document to stdout."""
    json.dump(value, sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")


def key_values(pairs: list[str] | None, option: str) -> dict[str, Any]:
    """Reads KEY=VALUE pairs. A value that is JSON (true, 5, {...}) is read as JSON, any other as text.

    Args:
        option: the name of the option, for the error.

    Raises:
        typer.BadParameter: a pair has no "=" or no key.
    """
    values: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{key!r} is not KEY=VALUE", param_hint=option)
        try:
            values[key] = json.loads(value)
        except json.JSONDecodeError:
            values[key] = value
    return values


def storage_options(pairs: list[str] | None) -> dict[str, Any]:
    """Reads the values of --storage-option."""
    return key_values(pairs, "--storage-option")
