"""Counts of a running job, for the display and the metrics. What is finished is decided by storage, not by these."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray.exceptions import RayError

from pipeline.cluster import metrics
from pipeline.cluster.nodes import start_on_driver_node
from pipeline.observer import Totals, peak_memory

MAX_REASONS = 1000  # different error texts that are counted; a job with more has shown what is wrong long before


class _Counts:
    """An actor that adds up what the workers report."""

    def __init__(self) -> None:
        self.totals = Totals()

    def started(self, images: int) -> None:
        self.totals.started.update(slices=1, images=images)

    def segmented(self, images: int, instances: int, errors: Counter[str], reasons: Counter[str]) -> None:
        self.totals.images += images
        self.totals.instances += instances
        self.totals.errors += errors
        for reason, count in reasons.items():
            if reason in self.totals.reasons or len(self.totals.reasons) < MAX_REASONS:
                self.totals.reasons[reason] += count

    def stage(self, name: str, counts: Counter[str], seconds: float, memory: int) -> None:
        self.totals.seconds[name] += seconds
        self.totals.passed[name] += counts["images"]
        self.totals.read[name] += counts["bytes"]
        self.totals.memory[name] = max(self.totals.memory.get(name, 0), memory)

    def batches(self, counts: Counter[str]) -> None:
        self.totals.batches += counts

    def read(self) -> Totals:
        return self.totals


class Progress:
    """A handle to the counts, which stages carry to their workers. Workers do not wait for their reports."""

    def __init__(self, counts: Any) -> None:
        self._counts, self._last, self._expected = counts, Totals(), 0

    @classmethod
    def start(cls) -> Progress:
        """Starts counting at zero, on the driver's node."""
        return cls(start_on_driver_node(_Counts))

    @contextmanager
    def stage(self, name: str) -> Iterator[Counter[str]]:
        """Measures a piece of a stage's work: its seconds and the memory of its process.

        Yields:
            A counter to put the piece's "images" and "bytes" in. If it stays empty, nothing is reported.
        """
        start, counts = time.perf_counter(), Counter[str]()
        yield counts
        if counts:
            seconds = time.perf_counter() - start
            metrics.stage(name, counts, seconds)
            self._counts.stage.remote(name, counts, seconds, peak_memory())

    def started(self, images: int) -> None:
        """Counts a slice of the catalog whose images are about to be fetched."""
        self._counts.started.remote(images)

    def segmented(self, errors: list[str | None], instances: int) -> None:
        """Counts images that have passed the segment stage, each with its error or None."""
        failed = [error for error in errors if error is not None]
        kinds = Counter(error.split(":")[0] for error in failed)
        reasons = Counter(re.sub(r"\d+", "#", error)[:200] for error in failed)
        metrics.segmented(len(errors), instances, kinds)
        self._counts.segmented.remote(len(errors), instances, kinds, reasons)

    def batches(self, images: int, slots: int, pixels: int, inputs: int) -> None:
        """Counts images in forward passes, see `Totals.batches`."""
        counts = Counter(images=images, slots=slots, pixels=pixels, inputs=inputs)
        metrics.batches(counts)
        self._counts.batches.remote(counts)

    def expect(self, images: int) -> None:
        """Sets how many more images are to come, for the driver's metrics."""
        self._expected = self._last.images + images

    @property
    def last(self) -> Totals:
        """The counts when they were last read."""
        return self._last

    def read(self) -> Totals:
        """Reads the counts."""
        with suppress(RayError):  # a job does not end because its counts cannot be read
            self._last = ray.get(self._counts.read.remote())
            metrics.left(self._expected - self._last.images, self._last.passed)
        return self._last
