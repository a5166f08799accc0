"""Counts of a running job, for whoever watches. Display only: the account is kept in storage."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.cluster import metrics
from pipeline.observer import Totals, peak_memory

REASONS = 1000  # texts kept; what is plainly wrong shows long before


class _Board:
    """Adds up what the workers report."""

    def __init__(self) -> None:
        self.totals = Totals()

    def begun(self, images: int) -> None:
        self.totals.begun.update(slices=1, images=images)

    def segmented(self, images: int, instances: int, errors: Counter[str], reasons: Counter[str]) -> None:
        self.totals.images += images
        self.totals.instances += instances
        self.totals.errors += errors
        for reason, count in reasons.items():
            if reason in self.totals.reasons or len(self.totals.reasons) < REASONS:
                self.totals.reasons[reason] += count

    def stage(self, name: str, passed: Counter[str], seconds: float, memory: int) -> None:
        self.totals.seconds[name] += seconds
        self.totals.passed[name] += passed["images"]
        self.totals.read[name] += passed["bytes"]
        self.totals.memory[name] = max(self.totals.memory.get(name, 0), memory)

    def batches(self, counts: Counter[str]) -> None:
        self.totals.batches += counts

    def read(self) -> Totals:
        return self.totals


class Progress:
    """A handle to the counts that stages can carry to their workers. Reports are not waited for."""

    def __init__(self, board: Any) -> None:
        self._board, self._last, self._owed = board, Totals(), 0

    @classmethod
    def start(cls) -> Progress:
        """Counts at zero, on the node of the driver."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        board: Any = ray.remote(_Board)
        return cls(board.options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote())

    @contextmanager
    def stage(self, name: str) -> Iterator[Counter[str]]:
        """Times a piece of a stage's work; count its images, and bytes it has read, in what this yields."""
        began, passed = time.perf_counter(), Counter[str]()
        yield passed
        seconds = time.perf_counter() - began
        metrics.stage(name, passed, seconds)
        memory = peak_memory()
        self._board.stage.remote(name, passed, seconds, memory)

    def begun(self, images: int) -> None:
        """Counts a slice of the catalog whose images are about to be fetched."""
        self._board.begun.remote(images)

    def segmented(self, errors: list[str | None], instances: int) -> None:
        """Counts images that have been through the network, or past it with an error."""
        failed = [error for error in errors if error is not None]
        kinds = Counter(error.split(":")[0] for error in failed)
        reasons = Counter(re.sub(r"\d+", "#", error)[:200] for error in failed)
        metrics.segmented(len(errors), instances, kinds)
        self._board.segmented.remote(len(errors), instances, kinds, reasons)

    def batches(self, images: int, slots: int, pixels: int, inputs: int) -> None:
        """Counts images in forward passes; see `Totals.batches`."""
        counts = Counter(images=images, slots=slots, pixels=pixels, inputs=inputs)
        metrics.batches(counts)
        self._board.batches.remote(counts)

    def owes(self, images: int) -> None:
        """States how many images are to come, for the driver's metrics."""
        self._owed = self._last.images + images

    @property
    def last(self) -> Totals:
        """The counts when they were last read."""
        return self._last

    def read(self) -> Totals:
        """The counts now."""
        with suppress(RayError):  # counts for display are not worth a job
            self._last = ray.get(self._board.read.remote())
            metrics.left(self._owed - self._last.images, self._last.passed)
        return self._last
