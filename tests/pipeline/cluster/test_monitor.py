"""When a job's input is plainly wrong."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest

from pipeline.catalog.slices import Slice
from pipeline.cluster.monitor import ENOUGH, Allowance, exceeds_error_rate, monitored
from pipeline.cluster.progress import Progress
from pipeline.errors import TooManyErrorsError
from pipeline.observer import JobObserver, Totals
from pipeline.output.counts import Counts

SLICE = 64


def totals(images: int, failed: int, begun: int) -> Totals:
    slices = Counter(slices=-(-begun // SLICE), images=begun)
    return Totals(images=images, errors=Counter({"DamagedImage": failed}), begun=slices)


@pytest.mark.parametrize(
    ("before", "images", "failed", "begun", "share", "expected"),
    [
        ((0, 0), ENOUGH - 1, ENOUGH - 1, ENOUGH - 1, 0.0, False),  # too few to be worth it
        ((0, 0), 1600, 320, 1600, 0.2, False),  # just what is allowed of 1600
        ((0, 0), 1600, 321, 1600, 0.2, True),
        ((0, 0), 330, 321, 400, 0.2, True),  # certain, though most are yet to come
        ((400, 0), 500, 321, 600, 0.2, False),  # 400 of 2000 may fail
        ((400, 80), 500, 321, 600, 0.2, True),  # of which 80 have
        ((400, 400), 200, 1, 300, 0.2, True),
        ((400, 400), 200, 0, 300, 0.2, False),  # nothing of this run's to show for it
    ],
)
def test_what_is_certain(
    before: tuple[int, int], images: int, failed: int, begun: int, share: float, expected: bool
) -> None:
    done, bad = before
    allowance = Allowance(share, done + 1600, bad, 1600, SLICE)
    assert exceeds_error_rate(totals(images, failed, begun), allowance) == expected


@pytest.mark.parametrize(("share", "within"), [(0.05, 1000), (0.2, 2000), (0.5, 3000)])
def test_of_millions_that_all_fail_some_are_enough(share: float, within: int) -> None:
    allowance = Allowance(share, 5_000_000, 0, 5_000_000, SLICE)
    stopped = next(n for n in range(SLICE, 5_000_000, SLICE) if exceeds_error_rate(totals(n, n, n), allowance))
    assert stopped < within


def test_bad_folders_within_the_share_are_never_given_up_for() -> None:
    """1000 jobs of 400 slices, a fifth of them bad from end to end, and just so many allowed; bad ones are faster."""
    rng = np.random.default_rng(0)
    allowance = Allowance(0.2, 400 * SLICE, 0, 400 * SLICE, SLICE)
    for _ in range(1000):
        bad = rng.permutation(400) < 80
        for begun in range(2, 401):
            failed = SLICE * int(bad[:begun].sum())
            images = max(failed, SLICE * (begun - 30))  # of those begun last only the bad ones are through
            assert not exceeds_error_rate(totals(images, failed, SLICE * begun), allowance)


def test_an_allowance_counts_the_rows_that_are_there() -> None:
    work = [Slice("a", np.arange(n, dtype=np.int32)) for n in (3, 64, 10)]
    before = Counts(catalogued=177, done=100, failed=7, left=77, instances=0, errors={})
    assert Allowance.of(0.1, before, work) == Allowance(0.1, 177, 7, 77, 64)


@pytest.mark.slow
def test_the_ten_most_frequent_reasons_are_told(local_ray: None) -> None:
    progress, ended = Progress.start(), list[Exception]()
    for kind in range(12):
        progress.segmented([f"Kind{chr(65 + kind)}: file {n}" for n in range(10 + kind)], 0)
    with monitored(progress, JobObserver(), 186, Allowance(0.1, 186, 0, 186, 64), lambda **_: None, ended.append):
        deadline = time.monotonic() + 60
        while not ended and time.monotonic() < deadline:
            time.sleep(0.1)
    assert isinstance(ended[0], TooManyErrorsError)
    assert str(ended[0]).startswith("stopped early: 186 of the first 186 images failed")
    assert ended[0].reasons == [(f"Kind{chr(65 + kind)}: file #", 10 + kind) for kind in range(11, 1, -1)]
