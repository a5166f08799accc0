"""Prints the result of a job or of a plan: a table on stdout, and on stderr why images failed."""

from __future__ import annotations

from typing import Any

from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from jobs.terminal.console import console, err


def show(record: dict[str, Any]) -> None:
    """Prints what a run did, its speed and its memory.

    Args:
        record: the record of the run, as `pipeline.job.run` returns it.
    """
    output = record["options"]["output"]
    if not record["images_to_do"]:
        console.print(f"nothing to do: all {record['catalogued']:,} images have a row in {escape(output)}")
    table = Table.grid(padding=(0, 2))
    table.add_row("images", f"{record['done']:,} of {record['catalogued']:,} done, {record['images_to_do']:,} now")
    if record.get("instances") is not None:
        table.add_row("instances", f"{record['instances']:,}")
    table.add_row("failed", f"{record['failed']:,}")
    for kind, count in sorted(record["errors"].items(), key=lambda item: -item[1]):
        table.add_row("", escape(f"{count:,} {kind}"))
    if "batch_fill" in record:
        padding = f"{record['padding_waste']:.1%} of their pixels are padding"
        full = f"{record['batch_fill']:.0%} full" if record["resources"]["num_gpus"] else "one image each, on a CPU"
        table.add_row("batches", f"{full}; {padding}")
    if "images_per_second" in record:
        table.add_row("speed", f"{record['images_per_second']:.2f} images/s, {record['seconds']:.0f} s in total")
    console.print(table)
    if stages := record.get("stages"):
        console.print(_stage_table(stages, record["peak_memory_of_driver"]))
    console.print(escape(f"results    {output}/results/*.parquet"), soft_wrap=True)
    if record["failed"]:
        console.print("segment the failed images again with --retry-errors", soft_wrap=True)


def show_plan(plan: dict[str, Any]) -> None:
    """Prints what a job would do, and the sample that the estimate rests on.

    Args:
        plan: as `pipeline.job.preview` returns it.
    """
    if why := plan["set_aside_why"]:
        console.print(escape(why), soft_wrap=True)
    table = Table.grid(padding=(0, 2))
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in plan["kinds"].items())
    table.add_row("catalogued", f"{plan['images']:,} images ({kinds})")
    unsized = f" and {plan['unsized']:,} of unknown size" if plan["unsized"] else ""
    table.add_row("left", f"{plan['left']:,} images, {decimal(plan['bytes'])}{unsized}")
    if plan["set_aside"]:
        table.add_row("set aside", f"{plan['set_aside']:,} rows of other settings")
    if plan["errors_retried"]:
        table.add_row("retried", f"{plan['errors_retried']:,} failed images")
    if plan["to_do"] < plan["left"]:
        table.add_row("now", f"{plan['to_do']:,} images")
    if sample := plan["sample"]:
        failed = f", {sample['failed']} of them failed" if sample["failed"] else ""
        table.add_row(
            "sample",
            f"{sample['images']} images, {sample['seconds_per_image']:.3f} s and {sample['instances_per_image']:.0f} "
            f"instances each{failed}, on {sample['device']} ({sample['cores']} cores)",
        )
        table.add_row("estimate", f"{_duration(plan['seconds_here'])} on this machine alone")
        table.add_row("results", f"about {decimal(int(plan['to_do'] * sample['bytes_per_row']))} before compression")
    if plan["last_rate"] and plan["to_do"]:
        duration = _duration(plan["to_do"] / plan["last_rate"])
        table.add_row("or", f"{duration} at the last run's {plan['last_rate']:.2f} images/s")
    console.print(table)


def _duration(seconds: float) -> str:
    """Seconds in a readable unit: 50 s, 12 min, 3.4 h, 2.1 days."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def show_reasons(reasons: list[tuple[str, int]]) -> None:
    """Prints the most frequent errors and their counts on stderr."""
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    for reason, count in reasons:
        table.add_row(f"{count:,}", escape(reason))
    err.print(table)


def _stage_table(stages: dict[str, dict[str, Any]], driver: int) -> Table:
    """One row per stage: images, speed of one worker, bytes read, and memory of the largest process.

    Args:
        driver: peak memory of the driver in bytes.
    """
    table = Table("stage", "images", "images/s per worker", "read", "peak memory", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for name in sorted(stages, key=["fetch", "decode", "segment", "encode"].index):
        s = stages[name]
        rate = f"{s['images_per_second']:,.1f}" if s["images_per_second"] else ""
        table.add_row(
            name, f"{s['images']:,}", rate, decimal(s["bytes"]) if s["bytes"] else "", decimal(s["peak_memory"])
        )
    table.add_row("driver", "", "", "", decimal(driver))
    return table
