"""`maskfleet segment`: the main job."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

import typer

from jobs.terminal import summaries
from jobs.terminal.console import USAGE, err, errors_to_exit, fail, print_json, storage_options
from jobs.terminal.exit_message import exit_message
from jobs.terminal.live_display import Display
from jobs.terminal.options import (
    AsJson,
    Config,
    GroupedCommand,
    Places,
    Plan,
    StorageOptions,
    Yes,
    build_options,
    with_job_options,
)
from pipeline.errors import TooManyErrorsError

if TYPE_CHECKING:
    from pipeline.options import Options

TOO_MANY_ERRORS = 3  # exit status: more images failed than --max-error-rate allows; finished, or stopped early
INTERRUPTED = 130
DRIVER_DIED = (
    "error: the job's process was killed. Either Ray's node manager died, or the system killed the process, perhaps "
    "because memory ran out. Nothing finished is lost: start the same command again to continue"
)
STOPPED = "stopped; nothing finished is lost: start the same command again to continue"

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,  # locals may hold credentials
)


@app.command(cls=GroupedCommand)
@errors_to_exit
@with_job_options
def segment(
    places: Places,
    plan: Plan = False,
    config: Config = None,
    yes: Yes = False,
    storage_option: StorageOptions = None,
    as_json: AsJson = False,
    **values: Any,
) -> None:
    """Segment every image of the INPUTs; write one row each to OUTPUT as Parquet.

    Start the same command again to continue a job that was stopped, or to add
    new images: finished images are not segmented again. An image that cannot
    be read becomes a row with the reason and does not stop the job.

    [bold]Examples[/]

    maskfleet segment plates/ results/

    maskfleet segment s3://lab/plates 's3://lab/{000..127}.tar' s3://lab/masks

    maskfleet segment slides/ results/ --tile 256 --plan

    Inside a Ray cluster (`ray job submit -- python -m jobs.segment ...`) the
    job runs on that cluster, otherwise on this machine.
    """
    if len(places) < 2:
        fail("name at least one INPUT and, last, the OUTPUT", USAGE)
    options = build_options(places, values, storage_options(storage_option))
    record = _run(options, plan, yes, as_json)
    if as_json:
        print_json(record)
    elif plan:
        summaries.show_plan(record)
    else:
        summaries.show(record)
    if not plan:
        _check_error_rate(record, options.max_error_rate)


def _run(options: Options, plan: bool, yes: bool, as_json: bool) -> dict[str, Any]:
    """Runs or plans the job under the live display. Returns its record."""
    display = Display(yes)
    try:
        with exit_message(DRIVER_DIED), display, _print_record_on_failure(display, as_json):
            display.phase("loading PyTorch and Ray")
            from pipeline import job  # takes seconds

            with redirect_stdout(sys.stderr):  # Ray prints its warnings, and what workers print, to stdout
                return job.preview(options, display) if plan else job.run(options, display)
    except TooManyErrorsError as error:
        err.print(f"[bold red]error:[/] {error}", soft_wrap=True)
        summaries.show_reasons(error.reasons)
        raise typer.Exit(TOO_MANY_ERRORS) from None
    except KeyboardInterrupt:
        err.print(STOPPED)
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def _print_record_on_failure(display: Display, as_json: bool) -> Iterator[None]:
    """With --json, prints the record of a job that stops early or fails, if the job has one by then."""
    try:
        yield
    except BaseException:
        if as_json and display.record is not None:
            print_json(display.record)
        raise


def _check_error_rate(record: dict[str, Any], allowed: float | None) -> None:
    """Exits with status 3 if a larger share of the images failed than --max-error-rate allows."""
    if allowed is not None and record["failed"] > allowed * max(record["done"], 1):
        err.print(f"{record['failed']} of {record['done']} images failed, more than --max-error-rate {allowed}")
        raise typer.Exit(TOO_MANY_ERRORS)


if __name__ == "__main__":
    app()
