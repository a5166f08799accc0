"""The options of `maskfleet segment`.

Those of the job are made from the fields of `pipeline.options.Options`. Those that only the command line has are
declared here.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from copy import copy
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from jobs.terminal import console
from jobs.terminal.console import key_values
from pipeline.options import AGAIN, READ, RUN, OptionInfo, Options

OUTPUT = "Output"  # the last group of the help
Command = TypeVar("Command", bound=Callable[..., Any])

INFOS: dict[str, OptionInfo] = {f.name: f.metadata["option"] for f in fields(Options) if "option" in f.metadata}
NAMES = {field: info.name or field for field, info in INFOS.items()}  # as users write them, with _ in place of -
TYPES = get_type_hints(Options, localns={"Place": object})  # the real class would load pyarrow
DEFAULTS = {f.name: f.default for f in fields(Options)}
CONFIG_FIELDS = {NAMES[field]: field for field, info in INFOS.items() if info.in_config}


class GroupedCommand(TyperCommand):
    """A command that lists --help in its last group. Typer would put it in a group before all others."""

    def get_help_option(self, ctx: typer.Context) -> Any:
        """Returns the option with its group set."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.rich_help_panel = OUTPUT
        return option


def with_job_options(command: Command) -> Command:
    """Replaces the `**values` of a command with one parameter for each option of a job.

    Typer reads the parameters of a command from its signature and annotations, so both are rewritten. The command
    gets the values as the command line has them, by the names of the fields; `build_options` takes them.
    """
    signature = inspect.signature(command, eval_str=True)
    declared = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    arguments = [p for p in declared if p.default is inspect.Parameter.empty]
    options = [p for p in declared if p not in arguments]
    parameters = [*arguments, *map(_parameter, INFOS), *options]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    command.__signature__ = signature.replace(parameters=parameters)
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def build_options(places: list[str], values: dict[str, Any], storage: dict[str, Any]) -> Options:
    """Builds the options of a job from what a command `with_job_options` was given.

    Args:
        places: the inputs and, last, the output.
        values: by the names of the fields.
        storage: fsspec's storage options.

    Raises:
        OptionError: a value cannot be used.
        typer.BadParameter: a --set that is not FIELD=VALUE.
    """
    parsed = {field: _parse(field, value) for field, value in values.items()}
    from pipeline.storage import place

    return Options(tuple(place(p, storage) for p in places[:-1]), place(places[-1], storage), **parsed)


def _parameter(field: str) -> inspect.Parameter:
    """The parameter of a command for a field of `Options`."""
    info, kind, default = INFOS[field], TYPES[field], DEFAULTS[field]
    if _is_mapping(field):
        kind, default = list[str] | None, None
    elif info.parse:
        kind = str | None
    declaration = typer.Option(
        f"--{NAMES[field].replace('_', '-')}",
        metavar=info.metavar,
        min=info.min,
        max=info.max,
        help=info.help,
        rich_help_panel=info.group,
    )
    return inspect.Parameter(
        field, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, declaration]
    )


def _parse(field: str, value: Any) -> Any:
    """The value of a field from its value on the command line."""
    if _is_mapping(field):
        return key_values(value, f"--{NAMES[field]}")
    parse = INFOS[field].parse
    return parse(value) if parse and value is not None else value


def _is_mapping(field: str) -> bool:
    """Whether a field is a dictionary: KEY=VALUE several times on the command line, a mapping in a config file."""
    return get_origin(TYPES[field]) is dict


def _load_config(context: typer.Context, path: Path | None) -> Path | None:
    """Makes the options in a YAML file the defaults of this call. They are checked like those of the command line.

    Raises:
        typer.BadParameter: the file is not YAML, or has an unknown option.
    """
    if path is None:
        return None
    import yaml

    try:
        content = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise typer.BadParameter(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise typer.BadParameter(f"{path} is not a mapping of options")
    content = {str(key).replace("-", "_"): value for key, value in content.items()}
    if unknown := sorted(content.keys() - CONFIG_FIELDS.keys()):
        raise typer.BadParameter(f"{path}: unknown option {', '.join(unknown)}; known: {', '.join(CONFIG_FIELDS)}")
    context.default_map = {CONFIG_FIELDS[key]: _as_arguments(path, key, value) for key, value in content.items()}
    return path


def _as_arguments(path: Path, key: str, value: Any) -> Any:
    """A value of a config file as the command line has it: a mapping becomes KEY=VALUE pairs."""
    if value is None or not _is_mapping(CONFIG_FIELDS[key]):
        return value
    if not isinstance(value, dict):
        raise typer.BadParameter(f"{path}: {key} is a mapping of preset fields, such as {{min_size: 512}}")
    return [f"{name}={json.dumps(setting)}" for name, setting in value.items()]


def _in_group(declared: Any, group: str) -> Any:
    """An option that commands share, under a heading of this command's help."""
    kind, declaration = get_args(declared)
    declaration = copy(declaration)
    declaration.rich_help_panel = group
    return Annotated[kind, declaration]


Places = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT... OUTPUT",
        help="One or more INPUTs: image files, folders or prefixes (s3://bucket/plates), globs, shards "
        "(s3://bucket/shard-{000..127}.tar, .tgz, .tar.gz, .parquet), or manifests of addresses (.txt, .csv, "
        ".jsonl, .parquet). Last, the OUTPUT folder or prefix.",
        show_default=False,
    ),
]
Plan = Annotated[
    bool,
    typer.Option(
        "--plan",
        help="Show how many images this command would segment and estimate the time from a sample. Writes nothing to "
        "OUTPUT.",
        rich_help_panel=RUN,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        help="A YAML file with options by name, such as min_score: 0.5. Options on the command line override the file.",
        exists=True,
        dir_okay=False,
        is_eager=True,
        callback=_load_config,
        rich_help_panel=RUN,
    ),
]
Yes = Annotated[
    bool, typer.Option("--yes", "-y", help="Do not ask for confirmation of --overwrite.", rich_help_panel=AGAIN)
]
StorageOptions = _in_group(console.StorageOptions, READ)
AsJson = _in_group(console.AsJson, OUTPUT)
