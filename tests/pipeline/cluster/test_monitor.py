"""When a job is stopped because its input is plainly wrong."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest

from pipeline.catalog.slices import Slice
from pipeline.cluster.monitor import MIN_IMAGES, ErrorBudget, exceeds_error_rate, monitored
from pipeline.cluster.progress import Progress
from pipeline.errors import TooManyErrorsError
from pipeline.observer import Totals
from pipeline.output.counts import Counts

SLICE = 64


def totals(images: int, failed: int, started: int) -> Totals:
    slices = Counter(slices=-(-started // SLICE), images=started)
    return Totals(images=images, errors=Counter({"DamagedImage": failed}), started=slices)


@pytest.mark.parametrize(
    ("before", "images", "failed", "started", "rate", "expected"),
    [
        ((0, 0), MIN_IMAGES - 1, MIN_IMAGES - 1, MIN_IMAGES - 1, 0.0, False),  # too few images to stop
        ((0, 0), 1600, 320, 1600, 0.2, False),  # exactly what is allowed of 1600
        ((0, 0), 1600, 321, 1600, 0.2, True),
        ((0, 0), 330, 321, 400, 0.2, True),  # certain, although most images are still to come
        ((400, 0), 500, 321, 600, 0.2, False),  # 400 of 2000 may fail
        ((400, 80), 500, 321, 600, 0.2, True),  # of which 80 have
        ((400, 400), 200, 1, 300, 0.2, True),
        ((400, 400), 200, 0, 300, 0.2, False),  # no error in this run
    ],
)
def test_a_job_stops_once_too_many_errors_are_certain(
    before: tuple[int, int], images: int, failed: int, started: int, rate: float, expected: bool
) -> None:
    done, bad = before
    budget = ErrorBudget(rate, done + 1600, bad, 1600, SLICE)
    assert exceeds_error_rate(totals(images, failed, started), budget) == expected


@pytest.mark.parametrize(("rate", "within"), [(0.05, 1000), (0.2, 2000), (0.5, 3000)])
def test_a_job_of_millions_that_all_fail_stops_early(rate: float, within: int) -> None:
    budget = ErrorBudget(rate, 5_000_000, 0, 5_000_000, SLICE)
    stopped = next(n for n in range(SLICE, 5_000_000, SLICE) if exceeds_error_rate(totals(n, n, n), budget))
    assert stopped < within


@pytest.mark.slow
def test_a_job_whose_bad_folders_are_allowed_never_stops() -> None:
    """1000 jobs of 400 slices. A fifth of the slices fail completely, exactly as many as allowed, and finish first."""
    rng = np.random.default_rng(0)
    budget = ErrorBudget(0.2, 400 * SLICE, 0, 400 * SLICE, SLICE)
    for _ in range(1000):
        bad = rng.permutation(400) < 80
        for started in range(2, 401):
            failed = SLICE * int(bad[:started].sum())
            images = max(failed, SLICE * (started - 30))  # of the last 30 slices only the bad ones have finished
            assert not exceeds_error_rate(totals(images, failed, SLICE * started), budget)


def test_a_budget_counts_the_rows_that_are_there() -> None:
    work = [Slice("a", np.arange(n, dtype=np.int32)) for n in (3, 64, 10)]
    before = Counts(catalogued=177, done=100, failed=7, left=77, instances=0, errors={})
    assert ErrorBudget.of(0.1, before, work) == ErrorBudget(0.1, 177, 7, 77, 64)


@pytest.mark.slow
def test_the_error_lists_the_ten_most_frequent_reasons(local_ray: None) -> None:
    progress, ended = Progress.start(), list[Exception]()
    for kind in range(12):
        progress.segmented([f"Kind{chr(65 + kind)}: file {n}" for n in range(10 + kind)], 0)
    with monitored(progress, lambda totals, rate: None, ErrorBudget(0.1, 186, 0, 186, 64), ended.append):
        deadline = time.monotonic() + 60
        while not ended and time.monotonic() < deadline:
            time.sleep(0.1)
    assert isinstance(ended[0], TooManyErrorsError)
    assert str(ended[0]).startswith("stopped early: 186 of the first 186 images failed")
    assert ended[0].reasons == [(f"Kind{chr(65 + kind)}: file #", 10 + kind) for kind in range(11, 1, -1)]
