"""`maskfleet weights`: what can be loaded, and what is in a checkpoint."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from jobs.terminal.console import USAGE, AsJson, console, errors_to_exit, fail, print_json
from model import Checkpoint, read_checkpoint, shipped_names
from model.checkpoints.checkpoint import SHIPPED
from model.checkpoints.files import redact
from model.checkpoints.published import PUBLISHED
from model.checkpoints.save import write_checkpoint
from model.load import build

app = typer.Typer(help="What can be loaded, and what is in a checkpoint.", no_args_is_help=True)


@app.command("list")
@errors_to_exit
def list_shipped(as_json: AsJson = False) -> None:
    """List the checkpoints that come with the package."""
    summaries = [summary(read_checkpoint(name), name) for name in shipped_names()]
    if as_json:
        print_json(summaries)
        return
    if not summaries:
        console.print("no weights are shipped with this installation")
    table = Table("name", "parameters", "MB", "mask AP", "box AP", "classes", box=None, pad_edge=False)
    for column in table.columns[1:5]:
        column.justify = "right"
    for s in summaries:
        figures = ("-" if s[k] is None else f"{s[k]:.3f}" for k in ("mask_ap", "box_ap"))
        table.add_row(s["name"], f"{s['parameters']:,}", str(s["megabytes"]), *figures, _short(s["classes"]))
    if summaries:
        console.print(table)
    published = " and ".join(PUBLISHED)
    console.print(f"--weights also takes {published} (torchvision's, fetched when first asked for), a path or a URI.")


@app.command("show")
@errors_to_exit
def show(
    weights: Annotated[str, typer.Argument(metavar="NAME|PATH", help="A shipped name, a path or a URI.")],
    as_json: AsJson = False,
) -> None:
    """Show what a checkpoint is: classes, network, thresholds, digest, and how it was made."""
    checkpoint = read_checkpoint(weights)
    content = summary(checkpoint, weights)
    preset = dataclasses.asdict(checkpoint.preset)
    if as_json:
        print_json(content | {"preset": preset, "provenance": checkpoint.provenance})
        return
    grid = Table.grid(padding=(0, 2))
    for key, value in content.items():
        if value is not None:
            grid.add_row(key.replace("_", " "), _text(_short(value) if key == "classes" else value))
    console.print(grid)
    for title, fields in (("preset", preset), ("provenance", checkpoint.provenance)):
        shown = {k: v for k, v in fields.items() if k not in ("category_ids", "categories")}
        if shown:
            console.print(f"\n[bold]{title}[/]")
            table = Table.grid(padding=(0, 2))
            for key, value in shown.items():
                table.add_row(f"  {key}", _text(value))
            console.print(table)


@app.command("convert")
@errors_to_exit
def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A path, a URI, coco, coco-v2, or a shipped name.")],
    to: Annotated[Path, typer.Argument(metavar="DST", help="The checkpoint to write, such as cells.safetensors.")],
    half: Annotated[bool, typer.Option("--half", help="Weights in half precision: half the size, rounded.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DST if it is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Convert a checkpoint of torchvision, detectron2 or mmdetection to our own layout.

    The family is recognised from the keys. A detectron2 config.yaml beside SRC is honoured. Nothing in the file is
    executed, and every key that is missing, unknown or of another shape is an error.

    [bold]Example[/]

    maskfleet weights convert model_final.pkl cells.safetensors
    """
    if to.suffix != ".safetensors":
        fail(f"{to}: the checkpoint is written as safetensors, so its name must end in .safetensors", USAGE)
    if to.exists() and not overwrite:
        fail(f"{to} is already there; --overwrite replaces it", USAGE)
    checkpoint = read_checkpoint(source)
    build(checkpoint, checkpoint.preset)  # every key and shape fits
    provenance = checkpoint.provenance | {"source": Path(redact(source)).name, "source_sha256": checkpoint.digest}
    write_checkpoint(to, checkpoint.state, checkpoint.preset, provenance, half=half)
    content = summary(read_checkpoint(to), str(to)) | {"family": checkpoint.preset.family}
    if as_json:
        print_json(content)
        return
    console.print(
        f"wrote {to}: {checkpoint.preset.family}, {content['parameters']:,} parameters, {content['megabytes']} MB, "
        f"classes {_short(content['classes'])}",
        soft_wrap=True,
        markup=False,
    )
    if note := checkpoint.provenance.get("note"):
        console.print(note, markup=False)


def summary(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """What a list says of a checkpoint; AP is what its provenance says of a validation, None if nothing."""
    measured = checkpoint.provenance.get("val") or {}
    trained = (t for k, t in checkpoint.state.items() if t.is_floating_point() and ".running_" not in k)
    return {
        "name": name,
        "network": checkpoint.preset.name,
        "parameters": sum(t.numel() for t in trained),
        "megabytes": _megabytes(name),
        "mask_ap": (measured.get("segm") or {}).get("AP"),
        "box_ap": (measured.get("bbox") or {}).get("AP"),
        "classes": list(checkpoint.preset.categories),
        "sha256": checkpoint.digest,
    }


def _megabytes(name: str) -> float | None:
    """Size of a checkpoint's file; None if it is not on this machine."""
    path = SHIPPED / f"{name}.safetensors" if name in shipped_names() else Path(name)
    return round(path.stat().st_size / 1e6, 1) if path.is_file() else None


def _short(classes: list[str]) -> str:
    """How many classes, and the first of them."""
    return f"{len(classes)}: " + ", ".join(classes[:4]) + (", ..." if len(classes) > 4 else "")


def _text(value: Any) -> Text:
    """A value of any kind on one line, with no markup read into it."""
    return Text(value if isinstance(value, str) else json.dumps(value, default=str))


if __name__ == "__main__":
    app()
