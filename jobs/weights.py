"""`maskfleet weights`: the checkpoints that can be loaded, and what is in one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from jobs.terminal.console import USAGE, AsJson, console, errors_to_exit, fail, print_json
from model.checkpoints.header import read_header
from model.checkpoints.published import PUBLISHED
from model.checkpoints.shipped import SHIPPED, shipped_names
from model.preset import Preset

if TYPE_CHECKING:
    from model import Checkpoint

app = typer.Typer(
    help="List, show and convert checkpoints.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
)


@app.command("list")
@errors_to_exit
def list_shipped(as_json: AsJson = False) -> None:
    """List the checkpoints that come with the package.

    Shows the average precision (AP) that each had on its validation images.

    [bold]Example[/]

    maskfleet weights list --json
    """
    summaries = [_summarise_shipped(name) for name in shipped_names()]
    if as_json:
        print_json(summaries)
        return
    if summaries:
        console.print(_list_table(summaries))
    else:
        console.print("no weights are shipped with this installation")
    names = " and ".join(PUBLISHED)
    console.print(f"--weights also takes {names} (torchvision's, downloaded on first use), a path or a URI.")


@app.command("show")
@errors_to_exit
def show(
    weights: Annotated[str, typer.Argument(metavar="NAME|PATH|URI", help="The checkpoint.")],
    as_json: AsJson = False,
) -> None:
    """Show what is in a checkpoint: classes, network, settings, digest, provenance.

    [bold]Examples[/]

    maskfleet weights show nuclei

    maskfleet weights show s3://lab/models/model_final.pkl
    """
    from model import read_checkpoint

    checkpoint = read_checkpoint(weights)
    summary = _summarise(checkpoint, weights)
    preset = dataclasses.asdict(checkpoint.preset)
    if as_json:
        print_json(summary | {"preset": preset, "provenance": checkpoint.provenance})
        return
    grid = Table.grid(padding=(0, 2))
    for key, value in summary.items():
        if value is not None:
            grid.add_row(key.replace("_", " "), _one_line(_shorten(value) if key == "classes" else value))
    console.print(grid)
    _show_fields("preset", preset)
    _show_fields("provenance", checkpoint.provenance)


@app.command("convert")
@errors_to_exit
def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A path, a URI, coco, coco-v2, or a shipped name.")],
    to: Annotated[Path, typer.Argument(metavar="DST", help="The checkpoint to write, such as cells.safetensors.")],
    half: Annotated[
        bool, typer.Option("--half", help="Round the weights to half precision. The file is half as large.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DST if it exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Convert a torchvision, detectron2 or mmdetection checkpoint to safetensors.

    The family is recognised from the keys. A detectron2 config.yaml next to
    SRC is used. Nothing in the file is executed. Every key that is missing,
    unknown or of the wrong shape is an error.

    [bold]Example[/]

    maskfleet weights convert model_final.pkl cells.safetensors
    """
    if to.suffix != ".safetensors":
        fail(f"{to}: the checkpoint is written as safetensors, so its name must end in .safetensors", USAGE)
    if to.exists() and not overwrite:
        fail(f"{to} already exists; --overwrite replaces it", USAGE)
    from model import read_checkpoint
    from model.checkpoints.files import redact
    from model.checkpoints.save import write_checkpoint
    from model.load import build_network

    checkpoint = read_checkpoint(source)
    build_network(checkpoint, checkpoint.preset)  # raises unless every key and shape fits
    provenance = checkpoint.provenance | {"source": Path(redact(source)).name, "source_sha256": checkpoint.digest}
    write_checkpoint(to, checkpoint.state, checkpoint.preset, provenance, half=half)
    summary = _summarise(read_checkpoint(to), str(to)) | {"family": checkpoint.preset.family}
    if as_json:
        print_json(summary)
        return
    console.print(
        f"wrote {to}: {checkpoint.preset.family}, {summary['parameters']:,} parameters, {summary['megabytes']} MB, "
        f"classes {_shorten(summary['classes'])}",
        soft_wrap=True,
        markup=False,
    )
    if note := checkpoint.provenance.get("note"):
        console.print(note, markup=False)


def _summarise_shipped(name: str) -> dict[str, Any]:
    """The summary of a shipped checkpoint, from its header. Does not load PyTorch."""
    path = SHIPPED / f"{name}.safetensors"
    header = read_header(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return _summary(name, header.preset, header.provenance, header.parameters, digest)


def _summarise(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """The summary of any checkpoint, from its tensors."""
    trained = (t for k, t in checkpoint.state.items() if t.is_floating_point() and ".running_" not in k)
    parameters = sum(t.numel() for t in trained)
    return _summary(name, checkpoint.preset, checkpoint.provenance, parameters, checkpoint.digest)


def _summary(name: str, preset: Preset, provenance: dict[str, Any], parameters: int, digest: str) -> dict[str, Any]:
    """What a list shows of a checkpoint. AP is the validation result in its provenance; None if there is none."""
    measured = provenance.get("val") or {}
    return {
        "name": name,
        "network": preset.name,
        "parameters": parameters,
        "megabytes": _megabytes(name),
        "mask_ap": (measured.get("segm") or {}).get("AP"),
        "box_ap": (measured.get("bbox") or {}).get("AP"),
        "classes": list(preset.categories),
        "sha256": digest,
    }


def _list_table(summaries: list[dict[str, Any]]) -> Table:
    """One row per checkpoint."""
    table = Table("name", "parameters", "MB", "mask AP", "box AP", "classes", box=None, pad_edge=False)
    for column in table.columns[1:5]:
        column.justify = "right"
    for s in summaries:
        figures = ("-" if s[k] is None else f"{s[k]:.3f}" for k in ("mask_ap", "box_ap"))
        table.add_row(s["name"], f"{s['parameters']:,}", str(s["megabytes"]), *figures, _shorten(s["classes"]))
    return table


def _show_fields(title: str, fields: dict[str, Any]) -> None:
    """Prints fields below a title, without the classes."""
    shown = {k: v for k, v in fields.items() if k not in ("category_ids", "categories")}
    if not shown:
        return
    console.print(f"\n[bold]{title}[/]")
    table = Table.grid(padding=(0, 2))
    for key, value in shown.items():
        table.add_row(f"  {key}", _one_line(value))
    console.print(table)


def _megabytes(name: str) -> float | None:
    """Size of a checkpoint's file; None if the file is not on this machine."""
    path = SHIPPED / f"{name}.safetensors" if name in shipped_names() else Path(name)
    return round(path.stat().st_size / 1e6, 1) if path.is_file() else None


def _shorten(classes: list[str]) -> str:
    """The number of classes and the first four of them."""
    return f"{len(classes)}: " + ", ".join(classes[:4]) + (", ..." if len(classes) > 4 else "")


def _one_line(value: Any) -> Text:
    """A value on one line. Brackets in it are not markup."""
    return Text(value if isinstance(value, str) else json.dumps(value, default=str))


if __name__ == "__main__":
    app()
