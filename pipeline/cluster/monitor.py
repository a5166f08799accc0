"""Checks a running plan every second: reports its counts, and stops a job whose input is plainly wrong."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import ray

from pipeline.catalog.slices import Slice
from pipeline.cluster.progress import Progress
from pipeline.errors import TooManyErrorsError
from pipeline.observer import Totals
from pipeline.output.counts import Counts

MIN_IMAGES = 100  # a job is not stopped before it has segmented this many
FALSE_STOP_PROBABILITY = 1e-9  # at each check, for a job whose error rate is allowed; there is one check a second
SHOWN_REASONS = 10


@dataclass(frozen=True)
class ErrorBudget:
    """How many images may fail. It is checked against all rows of the output, including those of earlier runs.

    Attributes:
        rate: the share of all rows that may be errors.
        rows: in the output when the plan has ended.
        failed: rows with an error before the plan.
        images: of the plan.
        largest_slice: images in the plan's largest slice.
    """

    rate: float
    rows: int
    failed: int
    images: int
    largest_slice: int

    @classmethod
    def of(cls, rate: float, before: Counts, work: Sequence[Slice]) -> ErrorBudget:
        """The budget of a plan.

        Args:
            before: rows in the output before the plan.
            work: slices of the plan.
        """
        sizes = [len(s.rows) for s in work]
        return cls(rate, before.done + sum(sizes), before.failed, sum(sizes), max(sizes))


@contextmanager
def monitored(
    progress: Progress,
    report: Callable[[Totals, float], None],
    budget: ErrorBudget | None,
    stop: Callable[[Exception], None],
) -> Iterator[None]:
    """Checks a plan from a thread while it runs, and once more when it has ended.

    Args:
        report: receives the counts and the images per second.
        budget: how many images may fail; None: all.
        stop: receives the error that ends the job.
    """
    ended, start = threading.Event(), time.monotonic()

    def read_and_report() -> Totals:
        totals = progress.read()
        report(totals, totals.images / max(time.monotonic() - start, 1e-9))
        return totals

    def poll() -> None:
        while not ended.wait(1.0):
            totals = read_and_report()
            if budget is not None and exceeds_error_rate(totals, budget):
                stop(TooManyErrorsError(_message(totals, budget), totals.reasons.most_common(SHOWN_REASONS)))

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if ray.is_initialized():
            read_and_report()


def exceeds_error_rate(totals: Totals, budget: ErrorBudget) -> bool:
    """Whether more images will have failed at the end of the job than the budget allows.

    There are two tests:

    1. More images have failed than may fail in all. This can be wrong only if a machine died, because its images are
       then counted twice.
    2. A large job is stopped earlier, by Hoeffding's bound on the slices that have started. Slices start in random
       order. They are the sample, and not images, because errors cluster: a damaged shard, a folder of other files.
       The bound needs no assumption about how errors cluster, and it holds for sampling without replacement. Each
       check stops a job wrongly with a probability of at most `FALSE_STOP_PROBABILITY`.

    An image that has started but not finished counts as good, because failures tend to finish first.
    """
    failed = totals.errors.total()
    if totals.images < MIN_IMAGES:
        return False
    if failed and budget.failed + failed > budget.rate * budget.rows:
        return True
    allowed = max(budget.rate * budget.rows - budget.failed, 0.0) / budget.images
    # Errors of a slice minus its allowed errors: at most `largest_slice`.
    excess = failed - allowed * totals.started["images"]
    return excess > budget.largest_slice * math.sqrt(
        totals.started["slices"] * math.log(1 / FALSE_STOP_PROBABILITY) / 2
    )


def _message(totals: Totals, budget: ErrorBudget) -> str:
    return (
        f"stopped early: {totals.errors.total():,} of the first {totals.images:,} images failed, more than "
        f"--max-error-rate {budget.rate} allows. Look at the reasons, correct the input and start the same command "
        "with --retry-errors"
    )
