"""Looking at a running plan every second: for the display, the lease, and whether its input is plainly wrong."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray

from pipeline.errors import TooManyErrorsError
from pipeline.options import Watcher
from pipeline.progress import Progress, Totals

ENOUGH = 100  # images before a share of errors says anything
DEVIATIONS = 3.0  # by which it must be above what is allowed, to be no accident of a beginning
REASONS = 10  # shown


@contextmanager
def watched(
    progress: Progress,
    watcher: Watcher,
    left: int,
    allowed: float | None,
    say: Callable[..., None],
    stop: Callable[[Exception], None],
) -> Iterator[None]:
    """Looks from a thread of its own while the plan runs, and once more when it has ended.

    Args:
        left: images owed at the start.
        allowed: share of images that may fail.
        say: told the counts, for others to see.
        stop: called with the error that ends the job.
    """
    ended, began = threading.Event(), time.monotonic()

    def look() -> None:
        totals = progress.read()
        watcher.totals(totals, left)
        rate = totals.images / max(time.monotonic() - began, 1e-9)
        # What a machine that died had not handed over is done, and counted, again.
        say(images=min(totals.images, left), left=left, failed=totals.errors.total(), images_per_second=round(rate, 2))
        if allowed is not None and hopeless(totals, allowed):
            stop(TooManyErrorsError(_verdict(totals, allowed), totals.reasons.most_common(REASONS)))

    def poll() -> None:
        while not ended.wait(1.0):
            look()

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if ray.is_initialized():
            look()


def hopeless(totals: Totals, allowed: float) -> bool:
    """Whether so many images have failed that the share allowed is certainly exceeded in the end.

    A one-sided test of the share so far, `DEVIATIONS` standard deviations away.
    """
    if totals.images < ENOUGH:
        return False
    share = totals.errors.total() / totals.images
    return share - DEVIATIONS * math.sqrt(share * (1 - share) / totals.images) > allowed


def _verdict(totals: Totals, allowed: float) -> str:
    return (
        f"stopped early: {totals.errors.total():,} of the first {totals.images:,} images failed, more than "
        f"--max-error-rate {allowed} allows. Look at the reasons, put the input right and start the same command "
        "with --retry-errors"
    )
