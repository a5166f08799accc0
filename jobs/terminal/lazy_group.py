"""A group of commands whose modules are imported when needed, so that help and small commands start at once."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup


class LazyGroup(TyperGroup):
    """A base for groups of subcommands.

    Attributes:
        commands_at: where each subcommand is, by name and in the order of the help: "module:name" of a function or of a
            `typer.Typer`.
    """

    commands_at: ClassVar[Mapping[str, str]]

    def list_commands(self, ctx: typer.Context) -> list[str]:
        """Returns the names in the order of the help."""
        return list(self.commands_at)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:
        """Imports a subcommand; None if there is none of this name."""
        if cmd_name not in self.commands_at:
            return None
        module, _, name = self.commands_at[cmd_name].partition(":")
        group = getattr(importlib.import_module(module), name)
        if not isinstance(group, typer.Typer):
            function, group = group, typer.Typer(rich_markup_mode="rich", add_completion=False)
            group.command()(function)
        command = typer.main.get_command(group)
        command.name = cmd_name
        return command
