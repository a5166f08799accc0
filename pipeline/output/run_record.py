"""What is written down of a run: what ended it, figures of its stages, memory, versions."""

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
from pipeline.storage import Place, one_line
from pipeline.storage.atomic_files import temporary_folder

REASONS = 10  # of errors, the most frequent
PACKAGES = ("maskfleet", "ray", "torch", "torchvision", "pyarrow")


@contextmanager
def kept(
    output: Place, record: dict[str, Any], observer: JobObserver, reason: Callable[[], Exception | None]
) -> Iterator[None]:
    """Writes the record of a run to runs/<id>.json when it ends, whatever ends it, and tells the observer.

    Args:
        record: with its id as `run` and when it `started`; gets `ended_by`, None if nothing went wrong.
        reason: why the run was interrupted, where that is known.
    """
    place = output.join("runs", f"{record['run']}.json")

    def write(ended_by: str | None) -> None:
        took = datetime.now(UTC) - datetime.fromisoformat(record["started"])
        record.update(ended_by=ended_by, seconds=round(took.total_seconds(), 1))
        observer.record = record
        place.put(json.dumps(record, indent=2).encode(), temporary_folder(output))

    try:
        yield
    except BaseException as error:
        with suppress(Exception):  # the output's store may be what ended it
            write(one_line(reason() or error).rstrip(": "))
        raise
    write(None)


@dataclass
class Spent:
    """What the plans of a run have done and cost.

    Attributes:
        images: that they were to do; of one that was cut short, those it did.
        seconds: that they took.
        resources: what the last of them asked Ray for.
    """

    totals: Totals = field(default_factory=Totals)
    images: int = 0
    seconds: float = 0.0
    resources: dict[str, Any] = field(default_factory=dict)

    def add(self, totals: Totals, images: int, seconds: float) -> None:
        """Adds a plan."""
        self.totals.add(totals)
        self.images += images
        self.seconds += seconds


def measured(spent: Spent) -> dict[str, Any]:
    """The speed of a run and of its stages, and the most frequent reasons of errors; nothing if no plan has run.

    A stage's `images_per_second` is of one worker (its seconds are summed over all), `bytes` are those it
    read from the store, `peak_memory` the bytes resident at most in one of its processes. `batch_fill` is of the
    batches that images were grouped into; a CPU takes the images of each one by one.
    """
    totals = spent.totals
    if not spent.seconds:
        return {}
    stages = {
        name: {
            "images": totals.passed[name],
            "seconds": round(spent, 2),
            "images_per_second": round(totals.passed[name] / spent, 2) if spent else None,
            "bytes": totals.read[name],
            "peak_memory": totals.memory.get(name, 0),
        }
        for name, spent in totals.seconds.items()
    }
    found: dict[str, Any] = {"images_per_second": round(spent.images / spent.seconds, 3), "stages": stages}
    found["resources"] = spent.resources
    found["reasons"] = totals.reasons.most_common(REASONS)
    found["peak_memory_of_driver"] = peak_memory()
    if totals.batches["slots"]:
        found["batch_fill"] = round(totals.batches["images"] / totals.batches["slots"], 3)
        found["padding_waste"] = round(1 - totals.batches["pixels"] / totals.batches["inputs"], 4)
    return found


def versions() -> dict[str, str]:
    """Of Python and the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a working directory sent to a cluster is not installed
            found[package] = "not installed"
    return found
