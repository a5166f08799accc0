"""`maskfleet status`: the progress of a job, read from storage alone."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from jobs.terminal.console import AsJson, StorageOptions, console, errors_to_exit, print_json, storage_options

if TYPE_CHECKING:
    from pipeline.output.counts import Counts
    from pipeline.storage import Place


@errors_to_exit
def status(
    output: Annotated[str, typer.Argument(help="The OUTPUT of `maskfleet segment`, a folder or URL.")],
    storage_option: StorageOptions = None,
    as_json: AsJson = False,
) -> None:
    """Count the images that are catalogued, done, failed and left.

    Shows the last run, and the job that writes to OUTPUT now if there is one.
    Reads little more than the footers of the Parquet files, so it is fast,
    needs no Ray, and works both while a job runs and years later.

    [bold]Example[/]

    maskfleet status s3://lab/masks
    """
    from pipeline.output.counts import counts
    from pipeline.output.run_record import read_run_records
    from pipeline.storage import place

    target = place(output, storage_options(storage_option))
    progress, records, lease = counts(target), read_run_records(target), _live_lease(target)
    last = records[-1] if records else None
    if as_json:
        print_json({"output": target.url, **asdict(progress), "runs": len(records), "last_run": last, "running": lease})
        return
    _show_counts(progress)
    if lease:
        console.print(escape(_describe_job(lease)), soft_wrap=True)
    console.print(escape(_describe_run(last)) if last else "no run has ended yet", soft_wrap=True)


def _live_lease(output: Place) -> dict[str, Any] | None:
    """The lease of the job that writes to the output now; None if there is no such job."""
    from pipeline.output.lease import is_alive, read_lease

    lease = read_lease(output)
    return lease if lease and is_alive(lease) else None


def _describe_job(lease: dict[str, Any]) -> str:
    """Describes the job that writes to the output now, and its last report, in one line."""
    texts = [f"running: {lease['user']} on {lease['host']}, process {lease['pid']}, since {lease['started'][:19]} UTC"]
    if report := lease["progress"]:
        rate = f"{report['images_per_second']:.2f} images/s"
        texts.append(f"{report['images']:,} of {report['images_to_do']:,} images at {rate}")
        texts.append(f"{report['failed']:,} failed")
    return ", ".join(texts)


def _describe_run(record: dict[str, Any]) -> str:
    """Describes a run in one line: when it started, its weights, its speed."""
    weights = (record.get("description") or {}).get("weights", "unknown weights")
    texts = [f"last run {str(record.get('started', ''))[:19].replace('T', ' ')} UTC", f"weights {weights}"]
    if "images_to_do" in record:
        texts.append(f"{record['images_to_do']:,} images in {record.get('seconds', 0):,.0f} s")
    if "images_per_second" in record:
        texts.append(f"{record['images_per_second']:.2f} images/s")
    return ", ".join(texts)


def _show_counts(counts: Counts) -> None:
    """Prints the counts, a progress bar and the errors by kind."""
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_row("catalogued", f"{counts.catalogued:,}")
    table.add_row("done", f"{counts.done:,}")
    table.add_row("  of them failed", f"{counts.failed:,}", style="red" if counts.failed else "")
    table.add_row("left", f"{counts.left:,}", style="yellow" if counts.left else "green")
    if counts.instances is not None:
        table.add_row("instances", f"{counts.instances:,}")
    console.print(table)
    total = max(counts.catalogued, counts.done, 1)
    bar = Table.grid(padding=(0, 1))
    # Rounded down, so that 100 % means that nothing is left.
    bar.add_row(ProgressBar(total, counts.done, width=40), f"{int(1000 * counts.done / total) / 10:.1f} %")
    console.print(bar)
    if counts.errors:
        errors = Table("failed", "why", box=None, pad_edge=False)
        errors.columns[0].justify = "right"
        for kind, number in counts.errors.items():
            errors.add_row(f"{number:,}", escape(kind))
        console.print(errors)


if __name__ == "__main__":
    typer.run(status)
