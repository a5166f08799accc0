"""When a job's input is plainly wrong."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pipeline.progress import Totals
from pipeline.watching import ENOUGH, hopeless


def totals(images: int, failed: int) -> Totals:
    return Totals(images=images, errors=Counter({"DamagedImage": failed}))


@pytest.mark.parametrize(
    ("images", "failed", "allowed", "expected"),
    [
        (ENOUGH - 1, ENOUGH - 1, 0.0, False),  # too few to say
        (ENOUGH, ENOUGH, 0.5, True),
        (ENOUGH, ENOUGH, 1.0, False),
        (ENOUGH, 0, 0.0, False),
        (1000, 100, 0.1, False),  # just what is allowed
        (1000, 200, 0.1, True),
    ],
)
def test_cases(images: int, failed: int, allowed: float, expected: bool) -> None:
    assert hopeless(totals(images, failed), allowed) == expected


def test_an_input_at_the_limit_is_hardly_ever_given_up() -> None:
    """Of 1000 streams whose true share of errors is just what is allowed, looked at every 50 images."""
    rng = np.random.default_rng(0)
    failed = rng.random((1000, 4000)) < 0.1
    stopped = 0
    for stream in failed.cumsum(axis=1):
        stopped += any(hopeless(totals(n, int(stream[n - 1])), 0.1) for n in range(100, 4001, 50))
    assert stopped < 30
