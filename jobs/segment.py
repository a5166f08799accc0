"""`maskfleet segment`: the main job."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from jobs import report
from jobs.console import (
    USAGE,
    AsJson,
    StorageOptions,
    err,
    errors_to_exit,
    fail,
    key_values,
    print_json,
    storage_options,
)
from jobs.display import Display
from jobs.last_words import last_words
from model.tiling import Tiling
from pipeline.errors import TooManyErrorsError
from pipeline.job import Options, plan_of, run
from pipeline.storage import place

TOO_MANY_ERRORS = 3  # exit status: finished, with more error rows than --max-error-rate allows
INTERRUPTED = 130
DIED = (
    "error: the job's process died (Ray's node manager beside it died, or the system killed it: out of memory?); "
    "nothing finished is lost: the same command continues"
)
CONFIGURABLE = (
    "weights",
    "min_score",
    "max_detections",
    "workers",
    "gpus_per_worker",
    "batch_size",
    "precision",
    "limit",
    "glob",
    "column",
    "max_pixels",
    "tile",
    "overlap",
    "nvjpeg",
    "compile",
    "max_error_rate",
    "retry_errors",
    "set",
)


def _configure(context: typer.Context, path: Path | None) -> Path | None:
    """Makes the options of a YAML file the defaults of this call, to be checked like the command line's."""
    if path is None:
        return None
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise typer.BadParameter(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise typer.BadParameter(f"{path} is not a mapping of options")
    content = {str(key).replace("-", "_"): value for key, value in content.items()}
    if unknown := sorted(content.keys() - set(CONFIGURABLE)):
        raise typer.BadParameter(f"{path}: unknown option {', '.join(unknown)}; known: {', '.join(CONFIGURABLE)}")
    if (fields := content.pop("set", None)) is not None:
        if not isinstance(fields, dict):
            raise typer.BadParameter(f"{path}: set is a mapping of preset fields, such as {{min_size: 512}}")
        content["preset"] = [f"{key}={json.dumps(value)}" for key, value in fields.items()]
    if "compile" in content:  # the function's name for it
        content["compiled"] = content.pop("compile")
    context.default_map = content
    return path


@errors_to_exit
def segment(
    context: typer.Context,
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT... OUTPUT",
            help="One or more INPUTs: image files, folders or prefixes (s3://bucket/plates), globs, shards "
            "(s3://bucket/shard-{000..127}.tar, .tgz, .tar.gz, .parquet), or manifests of addresses (.txt, .csv, "
            ".jsonl, .parquet). Last, the OUTPUT folder or prefix.",
            show_default=False,
        ),
    ],
    weights: Annotated[
        str,
        typer.Option(
            help="A shipped name (see `maskfleet weights list`), coco or coco-v2 (fetched from torchvision), or the "
            "path or URI of a checkpoint of torchvision, detectron2 or mmdetection."
        ),
    ] = "nuclei",
    min_score: Annotated[float | None, typer.Option(min=0, max=1, help="Drop instances below this score.")] = None,
    max_detections: Annotated[int | None, typer.Option(min=1, help="Most instances kept in an image.")] = None,
    workers: Annotated[
        str | None, typer.Option(metavar="N | MIN,MAX", help="Segment actors. Default: as many as fit the cluster.")
    ] = None,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            help="GPUs of an actor; 0.5 packs two on one. Default: 1 where there are GPUs, else the CPUs compute. "
            "Given, GPUs are waited for that a cluster is yet to start.",
        ),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images an actor takes at once.")] = None,
    precision: Annotated[str, typer.Option(metavar="auto|fp32|bf16|fp16", help="Arithmetic of the layers.")] = "auto",
    limit: Annotated[int | None, typer.Option(min=1, help="Do at most this many images now.")] = None,
    glob: Annotated[
        str | None,
        typer.Option(help="Only images whose file name matches, such as '*_w1.tif'; in a shard, the member's name."),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(
            help="The column of images in Parquet files, or of addresses in manifests. Default: the only one."
        ),
    ] = None,
    max_pixels: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Larger images become error rows. Default: 200 million, with --tile 1,000 million.",
            show_default=False,
        ),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(
            min=32,
            metavar="SIZE",
            help="Cut images larger than this into tiles of SIZE pixels, each scaled and seen like an image of its "
            "own: choose about the size of the images that the weights were trained on (256 for nuclei). Objects that "
            "several tiles saw are made one. --max-detections is then of a tile.",
        ),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Pixels that neighbouring tiles share: as large as the objects, so that each is whole in some tile. "
            "Default: a quarter of SIZE.",
            show_default=False,
        ),
    ] = None,
    nvjpeg: Annotated[
        bool,
        typer.Option("--nvjpeg", help="Decode JPEG files on the GPU; grey levels may differ by a few from a CPU's."),
    ] = False,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the network for each input shape, up to 32 (torch.compile).")
    ] = False,
    max_error_rate: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Exit with status 3 if a larger share of images failed; stop as soon as that is plain.",
        ),
    ] = None,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Also do the images again whose row is an error.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Where OUTPUT holds results of other weights or settings, move them to OUTPUT/replaced and begin "
            "anew. Asks first.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Answer the question of --overwrite.")] = False,
    preset: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="A field of the weights' preset, for checkpoints whose settings cannot be read off: "
            "min_size=512, anchor_sizes=[[16],[32],[64],[128],[256]]. May be given several times.",
        ),
    ] = None,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan",
            help="Say how much the same command without --plan would do and, from a sample, how long that may take; "
            "OUTPUT stays as it is.",
        ),
    ] = False,
    storage_option: StorageOptions = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="A YAML file of these options by name; the command line goes before it.",
            exists=True,
            dir_okay=False,
            is_eager=True,
            callback=_configure,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Segment every image under the INPUTs and write one row each to OUTPUT as Parquet.

    Starting the same command again continues where it stopped; images that were added since are done, finished
    ones are not touched. A bad image becomes a row that says why, and stops nothing.

    [bold]Examples[/]

    maskfleet segment plates/ results/

    maskfleet segment s3://lab/plates 's3://lab/shards/{000..127}.tar' s3://lab/masks --min-score 0.5

    Inside a Ray cluster (`ray job submit -- python -m jobs.segment ...`) it runs on that cluster, else on this machine.
    """
    if len(places) < 2:
        fail("name at least one INPUT and, last, the OUTPUT", USAGE)
    values = {
        "weights": weights,
        "min_score": min_score,
        "max_detections": max_detections,
        "workers": workers,
        "gpus_per_worker": gpus_per_worker,
        "batch_size": batch_size,
        "precision": precision,
        "limit": limit,
        "glob": glob,
        "column": column,
        "max_pixels": max_pixels,
        "tile": tile,
        "overlap": overlap,
        "nvjpeg": nvjpeg,
        "compile": compiled,
        "max_error_rate": max_error_rate,
        "retry_errors": retry_errors,
        "overwrite": overwrite,
        "yes": yes,
        "plan": plan,
        "set": key_values(preset, "--set"),
    }
    _segment(places, values, storage_options(storage_option), as_json)


def _segment(places: list[str], values: dict[str, Any], storage: dict[str, Any], as_json: bool) -> None:
    overrides = dict(values["set"]) | {k: values[k] for k in ("min_score", "max_detections") if values[k] is not None}
    options = Options(
        inputs=tuple(place(p, storage) for p in places[:-1]),
        output=place(places[-1], storage),
        weights=values["weights"],
        precision=values["precision"],
        overrides=overrides,
        pattern=values["glob"],
        column=values["column"],
        workers=_pool(values["workers"]),
        gpus_per_worker=values["gpus_per_worker"],
        batch_size=values["batch_size"],
        compiled=values["compile"],
        tiling=_tiling(values["tile"], values["overlap"]),
        nvjpeg=values["nvjpeg"],
        max_pixels=values["max_pixels"],
        limit=values["limit"],
        retry_errors=values["retry_errors"],
        max_error_rate=values["max_error_rate"],
        overwrite=values["overwrite"],
    )
    display = Display(values["yes"])
    try:
        with last_words(DIED), display, _record_of_failure(display, as_json):
            record = plan_of(options, display) if values["plan"] else run(options, display)
    except TooManyErrorsError as error:
        err.print(f"[bold red]error:[/] {error}", soft_wrap=True)
        report.show_reasons(error.reasons)
        raise typer.Exit(TOO_MANY_ERRORS) from None
    except KeyboardInterrupt:
        err.print("stopped; nothing finished is lost: the same command continues")
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json(record)
    else:
        (report.show_plan if values["plan"] else report.show)(record)
    allowed = None if values["plan"] else values["max_error_rate"]
    if allowed is not None and record["failed"] > allowed * max(record["done"], 1):
        err.print(f"{record['failed']} of {record['done']} images failed, more than --max-error-rate {allowed}")
        raise typer.Exit(TOO_MANY_ERRORS)


@contextmanager
def _record_of_failure(display: Display, as_json: bool) -> Iterator[None]:
    """With --json a job that stops early or fails prints its record too, if it had come to have one."""
    try:
        yield
    except BaseException:
        if as_json and display.record is not None:
            print_json(display.record)
        raise


def _tiling(size: int | None, overlap: int | None) -> Tiling | None:
    if size is None:
        if overlap is not None:
            fail("--overlap is of the tiles that --tile SIZE asks for", USAGE)
        return None
    overlap = size // 4 if overlap is None else overlap
    if overlap >= size:
        fail(f"--overlap {overlap} is as large as the tiles of {size} pixels", USAGE)
    return Tiling(size, overlap)


def _pool(text: str | None) -> tuple[int, int] | None:
    """`4` or `1,8` as (min, max) actors."""
    if text is None:
        return None
    try:
        numbers = [int(n) for n in str(text).split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not 1 <= numbers[0] <= numbers[-1]:
        fail(f"--workers {text}: give a number or MIN,MAX", USAGE)
    return numbers[0], numbers[-1]


if __name__ == "__main__":
    typer.run(segment)
