"""What is written down of a run: figures of its stages, memory, versions."""

from __future__ import annotations

import platform
import resource
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pipeline.progress import KIB, Totals

PACKAGES = ("maskfleet", "ray", "torch", "torchvision", "pyarrow")


def measured(totals: Totals, images: int, seconds: float) -> dict[str, Any]:
    """The speed of a run and of its stages.

    A stage's `images_per_second` is of one worker (its seconds are summed over all), `bytes` are those it
    read from the store, `peak_memory` the bytes resident at most in one of its processes.
    """
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
    found: dict[str, Any] = {"images_per_second": round(images / seconds, 3), "stages": stages}
    found["peak_memory_of_driver"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB
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
