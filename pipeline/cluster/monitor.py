"""Looking at a running plan every second: for the display, the lease, and whether its input is plainly wrong."""

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
from pipeline.observer import JobObserver, Totals
from pipeline.output.counts import Counts

ENOUGH = 100  # images before which it is not worth stopping
CHANCE = 1e-9  # at each look that a job is stopped whose share of errors is allowed; there is a look a second
REASONS = 10  # shown


@dataclass(frozen=True)
class Allowance:
    """How many images may fail, as it is checked in the end: existing rows count too.

    Attributes:
        share: of all rows that may be errors.
        rows: there will be in the end.
        failed: of those that are there already.
        images: of the plan.
        largest: images of its largest slice.
    """

    share: float
    rows: int
    failed: int
    images: int
    largest: int

    @classmethod
    def of(cls, share: float, before: Counts, work: Sequence[Slice]) -> Allowance:
        """The allowance of a plan.

        Args:
            before: what the output holds.
            work: the plan's.
        """
        sizes = [len(s.rows) for s in work]
        return cls(share, before.done + sum(sizes), before.failed, sum(sizes), max(sizes))


@contextmanager
def monitored(
    progress: Progress,
    observer: JobObserver,
    left: int,
    allowance: Allowance | None,
    say: Callable[..., None],
    stop: Callable[[Exception], None],
) -> Iterator[None]:
    """Looks from a thread of its own while the plan runs, and once more when it has ended.

    Args:
        left: images owed at the start.
        allowance: how many images may fail; None: all.
        say: told the counts, for others to see.
        stop: called with the error that ends the job.
    """
    ended, began = threading.Event(), time.monotonic()

    def look() -> Totals:
        totals = progress.read()
        observer.totals(totals, left)
        rate = totals.images / max(time.monotonic() - began, 1e-9)
        # What a machine that died had not handed over is done, and counted, again.
        say(images=min(totals.images, left), left=left, failed=totals.errors.total(), images_per_second=round(rate, 2))
        return totals

    def poll() -> None:
        while not ended.wait(1.0):
            totals = look()
            if allowance is not None and exceeds_error_rate(totals, allowance):
                stop(TooManyErrorsError(_verdict(totals, allowance), totals.reasons.most_common(REASONS)))

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if ray.is_initialized():
            look()


def exceeds_error_rate(totals: Totals, allowance: Allowance) -> bool:
    """Whether more images will have failed in the end than are allowed.

    Certain, once more have failed already than may in all; unless machines died and what they did was counted
    twice. In a large job that comes late, so there is a test that is wrong with a chance of `CHANCE` at most.
    Errors come in clusters, a damaged shard or a folder of something else, so what it takes for a sample is
    slices, not images: they are begun in random order. It is Hoeffding's bound, which holds for draws without
    replacement and whatever the clusters: of each slice it sums errors less errors allowed. Images that are
    begun and not done count as good, as bad ones may be the faster.
    """
    failed = totals.errors.total()
    if totals.images < ENOUGH:
        return False
    if failed and allowance.failed + failed > allowance.share * allowance.rows:
        return True
    may_fail = max(allowance.share * allowance.rows - allowance.failed, 0.0) / allowance.images
    excess = failed - may_fail * totals.begun["images"]
    return excess > allowance.largest * math.sqrt(totals.begun["slices"] * math.log(1 / CHANCE) / 2)


def _verdict(totals: Totals, allowance: Allowance) -> str:
    return (
        f"stopped early: {totals.errors.total():,} of the first {totals.images:,} images failed, more than "
        f"--max-error-rate {allowance.share} allows. Look at the reasons, put the input right and start the same "
        "command with --retry-errors"
    )
