"""Writes and reads runs/<run id>.json: how a run ended, statistics of its stages, memory and package versions."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pipeline.observer import JobObserver, Totals, peak_memory
from pipeline.output.output_files import list_files
from pipeline.storage import Place, explain, one_line
from pipeline.storage.atomic_files import temporary_folder

REASONS = 10  # most frequent error reasons that a record lists
PACKAGES = ("maskfleet", "ray", "torch", "torchvision", "pyarrow")


@contextmanager
def record_run(
    output: Place, record: dict[str, Any], observer: JobObserver, interruption: Callable[[], Exception | None]
) -> Iterator[None]:
    """Writes the record of a run to runs/<run id>.json when the block ends, also after an error.

    Args:
        output: root of the output.
        record: must hold `run` (the run id) and `started` (ISO 8601). Gets `ended_by` (the error, or None) and
            `seconds`.
        observer: its `record` is set.
        interruption: returns the reason why the run was interrupted, or None if it is not known.
    """
    file = output.join("runs", f"{record['run']}.json")

    def write(ended_by: str | None) -> None:
        took = datetime.now(UTC) - datetime.fromisoformat(record["started"])
        record.update(ended_by=ended_by, seconds=round(took.total_seconds(), 1))
        observer.record = record
        file.put(json.dumps(record, indent=2).encode(), temporary_folder(output))

    try:
        yield
    except BaseException as error:
        with suppress(Exception):  # the store of the output may be the cause of the error
            write(one_line(interruption() or error).rstrip(": "))
        raise
    write(None)


def read_run_records(output: Place) -> list[dict[str, Any]]:
    """Reads the records of all runs that ended, oldest first.

    Raises:
        InputError: a record cannot be read.
    """
    records = []
    for file in list_files(output, "runs", ".json"):
        try:
            records.append(json.loads(file.fs.cat_file(file.path)))
        except Exception as error:  # the error type depends on the store
            raise explain(file.url, error) from None
    return sorted(records, key=lambda r: str(r.get("started", "")))


@dataclass
class RunTotals:
    """Sums over the Ray Data plans that a run has executed.

    Attributes:
        totals: counts of the stages.
        images: images that the plans were to segment; for a plan that was interrupted, those it did.
        seconds: wall time of the plans.
        resources: what the last plan requested from Ray.
    """

    totals: Totals = field(default_factory=Totals)
    images: int = 0
    seconds: float = 0.0
    resources: dict[str, Any] = field(default_factory=dict)

    def add(self, totals: Totals, images: int, seconds: float) -> None:
        """Adds one plan."""
        self.totals.add(totals)
        self.images += images
        self.seconds += seconds


def run_statistics(run: RunTotals) -> dict[str, Any]:
    """Computes the entries of a run record that measure the run: speed, stages, error reasons and memory.

    Returns:
        An empty dict if no plan has run. Otherwise `images_per_second`; `resources`; `reasons`, the most frequent
        errors with their counts; `peak_memory_of_driver` in bytes; and `stages` by name. In a stage,
        `images_per_second` is the speed of one worker, since `seconds` are summed over all workers, `bytes` are
        what it read from the store, and `peak_memory` is the largest resident size of one of its processes in
        bytes. If images were batched, also `batch_fill`, the share of the batch slots that held an image (a CPU
        then still processes the images one by one), and `padding_waste`, the share of input pixels that were
        padding.
    """
    totals = run.totals
    if not run.seconds:
        return {}
    stages = {
        name: {
            "images": totals.passed[name],
            "seconds": round(seconds, 2),
            "images_per_second": round(totals.passed[name] / seconds, 2) if seconds else None,
            "bytes": totals.read[name],
            "peak_memory": totals.memory.get(name, 0),
        }
        for name, seconds in totals.seconds.items()
    }
    statistics: dict[str, Any] = {"images_per_second": round(run.images / run.seconds, 3), "stages": stages}
    statistics["resources"] = run.resources
    statistics["reasons"] = totals.reasons.most_common(REASONS)
    statistics["peak_memory_of_driver"] = peak_memory()
    if totals.batches["slots"]:
        statistics["batch_fill"] = round(totals.batches["images"] / totals.batches["slots"], 3)
        statistics["padding_waste"] = round(1 - totals.batches["pixels"] / totals.batches["inputs"], 4)
    return statistics


def package_versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that results depend on."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # a working directory that was sent to a cluster is not installed
            versions[package] = "not installed"
    return versions
