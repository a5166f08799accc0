"""The order in which batches are uploaded, waited for and worked on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from model.batching.prefetch import Prefetcher, uploader


@pytest.mark.parametrize("prepared", [True, False])
def test_the_next_upload_begins_once_this_batch_is_launched(prepared: bool) -> None:
    events: list[str] = []

    def upload(plan: str) -> Callable[[], Tensor]:
        events.append(f"begin {plan}")

        def arrive() -> Tensor:
            events.append(f"arrive {plan}")
            return torch.tensor(ord(plan))

        return arrive

    batches = Prefetcher("abc", upload)
    for plan, batch in batches:
        assert batch.item() == ord(plan)
        events.append(f"launch {plan}")
        if prepared:
            batches.prefetch()
            batches.prefetch()  # does not start a second upload
        events.append(f"wait {plan}")
    expected = {
        True: "begin a, arrive a, launch a, begin b, wait a, arrive b, launch b, begin c, wait b, arrive c",
        False: "begin a, arrive a, launch a, wait a, begin b, arrive b, launch b, wait b, begin c, arrive c",
    }
    assert ", ".join(events) == expected[prepared] + ", launch c, wait c"


def test_a_cpu_makes_a_batch_when_it_is_asked_for() -> None:
    """So at most one batch is in memory."""
    made: list[int] = []

    def make(plan: int) -> Tensor:
        made.append(plan)
        return torch.full((2,), plan)

    batches = Prefetcher([7, 8, 9], uploader(make, torch.device("cpu")))
    for number, (plan, batch) in enumerate(batches):
        batches.prefetch()
        assert batch.tolist() == [plan] * 2
        assert made == [7, 8, 9][: number + 1]


def test_no_batches() -> None:
    assert list(Prefetcher([], uploader(torch.tensor, torch.device("cpu")))) == []
