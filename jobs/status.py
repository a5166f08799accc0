"""`maskfleet status`: how far a job is, from storage alone."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from jobs.terminal.console import AsJson, StorageOptions, console, errors_to_exit, print_json, storage_options
from pipeline.output.counts import Counts, counts
from pipeline.output.lease import is_alive, read_lease
from pipeline.output.run_record import read_run_records
from pipeline.storage import Place, place


@errors_to_exit
def status(
    output: Annotated[str, typer.Argument(help="The OUTPUT of `maskfleet segment`, a folder or URL.")],
    storage_option: StorageOptions = None,
    as_json: AsJson = False,
) -> None:
    """Count what is catalogued, done, failed and left.

    It reads the footers of the output's files and nothing else, so it is cheap, needs no Ray and works while a job
    runs as well as years later.
    """
    where = place(output, storage_options(storage_option))
    now, records, running = counts(where), read_run_records(where), _running(where)
    last = records[-1] if records else None
    if as_json:
        print_json({"output": where.url, **asdict(now), "runs": len(records), "last_run": last, "running": running})
        return
    _show(now)
    if running:
        console.print(_now(running), soft_wrap=True)
    if last:
        console.print(escape(_last_run(last)), soft_wrap=True)
    else:
        console.print("no run has ended yet")


def _running(output: Place) -> dict[str, Any] | None:
    """The lease of the job that is writing to the output now, if one is."""
    held = read_lease(output)
    return held if held and is_alive(held) else None


def _now(held: dict[str, Any]) -> str:
    """Who writes to the output now, and what it said last, in a line."""
    parts = [f"running: {held['user']} on {held['host']}, process {held['pid']}, since {held['started'][:19]} UTC"]
    if said := held["progress"]:
        parts.append(f"{said['images']:,} of {said['left']:,} images at {said['images_per_second']:.2f} images/s")
        parts.append(f"{said['failed']:,} failed")
    return escape(", ".join(parts))


def _show(now: Counts) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_row("catalogued", f"{now.catalogued:,}")
    table.add_row("done", f"{now.done:,}")
    table.add_row("  of them failed", f"{now.failed:,}", style="red" if now.failed else "")
    table.add_row("left", f"{now.left:,}", style="yellow" if now.left else "green")
    if now.instances is not None:
        table.add_row("instances", f"{now.instances:,}")
    console.print(table)
    total = max(now.catalogued, now.done, 1)
    bar = Table.grid(padding=(0, 1))
    # Rounded down: 100 % is said only when nothing is left.
    bar.add_row(ProgressBar(total, now.done, width=40), f"{int(1000 * now.done / total) / 10:.1f} %")
    console.print(bar)
    if now.errors:
        kinds = Table("failed", "why", box=None, pad_edge=False)
        kinds.columns[0].justify = "right"
        for kind, number in now.errors.items():
            kinds.add_row(f"{number:,}", escape(kind))
        console.print(kinds)


def _last_run(record: dict[str, Any]) -> str:
    """The last run in a line: when, with what, how fast."""
    weights = (record.get("description") or {}).get("weights", "unknown weights")
    parts = [f"last run {str(record.get('started', ''))[:19].replace('T', ' ')} UTC", f"weights {weights}"]
    if "images_to_do" in record:
        parts.append(f"{record['images_to_do']:,} images in {record.get('seconds', 0):,.0f} s")
    if "images_per_second" in record:
        parts.append(f"{record['images_per_second']:.2f} images/s")
    return ", ".join(parts)


if __name__ == "__main__":
    typer.run(status)
