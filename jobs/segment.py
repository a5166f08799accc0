"""`maskfleet segment`: the main job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from jobs.terminal import summaries
from jobs.terminal.console import (
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
from jobs.terminal.exit_message import exit_message
from jobs.terminal.live_display import Display
from jobs.terminal.segment_options import (
    BatchSize,
    Column,
    Compiled,
    Config,
    Glob,
    GpusPerWorker,
    Limit,
    MaxDetections,
    MaxErrorRate,
    MaxPixels,
    MinScore,
    Nvjpeg,
    Overlap,
    Overwrite,
    Places,
    Plan,
    Precision,
    RetryErrors,
    SetFields,
    Tile,
    Weights,
    Workers,
    Yes,
)
from model.masks.tile_grid import Tiling
from pipeline.errors import TooManyErrorsError
from pipeline.job import Options, plan_of, run
from pipeline.storage import place

TOO_MANY_ERRORS = 3  # exit status: finished, with more error rows than --max-error-rate allows
INTERRUPTED = 130
SLIVER = 0.01  # of a GPU, the least: who puts more than a hundred actors on one has mistyped something
DIED = (
    "error: the job's process died (Ray's node manager beside it died, or the system killed it: out of memory?); "
    "nothing finished is lost: the same command continues"
)


@errors_to_exit
def segment(
    context: typer.Context,
    places: Places,
    weights: Weights = "nuclei",
    min_score: MinScore = None,
    max_detections: MaxDetections = None,
    workers: Workers = None,
    gpus_per_worker: GpusPerWorker = None,
    batch_size: BatchSize = None,
    precision: Precision = "auto",
    limit: Limit = None,
    glob: Glob = None,
    column: Column = None,
    max_pixels: MaxPixels = None,
    tile: Tile = None,
    overlap: Overlap = None,
    nvjpeg: Nvjpeg = False,
    compiled: Compiled = False,
    max_error_rate: MaxErrorRate = None,
    retry_errors: RetryErrors = False,
    overwrite: Overwrite = False,
    yes: Yes = False,
    preset: SetFields = None,
    plan: Plan = False,
    storage_option: StorageOptions = None,
    config: Config = None,
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
        gpus_per_worker=_gpus(values["gpus_per_worker"]),
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
        with exit_message(DIED), display, _record_of_failure(display, as_json):
            record = plan_of(options, display) if values["plan"] else run(options, display)
    except TooManyErrorsError as error:
        err.print(f"[bold red]error:[/] {error}", soft_wrap=True)
        summaries.show_reasons(error.reasons)
        raise typer.Exit(TOO_MANY_ERRORS) from None
    except KeyboardInterrupt:
        err.print("stopped; nothing finished is lost: the same command continues")
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json(record)
    else:
        (summaries.show_plan if values["plan"] else summaries.show)(record)
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


def _gpus(number: float | None) -> float | None:
    """GPUs of an actor, as Ray can split them."""
    if number and number < SLIVER:
        fail(f"--gpus-per-worker {number:g}: give 0 to compute on CPUs, or {SLIVER} or more", USAGE)
    if number and number > 1 and number != int(number):
        fail(f"--gpus-per-worker {number:g}: more than one GPU must be a whole number", USAGE)
    return number


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
