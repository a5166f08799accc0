"""In which order batches are begun, waited for and worked on; that a download keeps every bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from model.inference.prefetch import Prefetcher, uploads
from model.mask_rcnn import _downloaded


@pytest.mark.parametrize("prepared", [True, False])
def test_the_next_upload_begins_once_this_batch_is_launched(prepared: bool) -> None:
    events: list[str] = []

    def upload(plan: str) -> Callable[[], Tensor]:
        events.append(f"begin {plan}")

        def arrive() -> Tensor:
            events.append(f"arrive {plan}")
            return torch.tensor(ord(plan))

        return arrive

    feed = Prefetcher("abc", upload)
    for plan, batch in feed:
        assert batch.item() == ord(plan)
        events.append(f"launch {plan}")
        if prepared:
            feed.prepare()
            feed.prepare()  # which begins no second one
        events.append(f"wait {plan}")
    expected = {
        True: "begin a, arrive a, launch a, begin b, wait a, arrive b, launch b, begin c, wait b, arrive c",
        False: "begin a, arrive a, launch a, wait a, begin b, arrive b, launch b, wait b, begin c, arrive c",
    }
    assert ", ".join(events) == expected[prepared] + ", launch c, wait c"


def test_a_cpu_makes_a_batch_when_it_is_asked_for() -> None:
    """So that no more than one is in memory."""
    made: list[int] = []

    def make(plan: int) -> Tensor:
        made.append(plan)
        return torch.full((2,), plan)

    feed = Prefetcher([7, 8, 9], uploads(make, torch.device("cpu")))
    for number, (plan, batch) in enumerate(feed):
        feed.prepare()
        assert batch.tolist() == [plan] * 2
        assert made == [7, 8, 9][: number + 1]


def test_no_batches() -> None:
    assert list(Prefetcher([], uploads(torch.tensor, torch.device("cpu")))) == []


@pytest.mark.parametrize("count", [0, 1, 37])
def test_a_download_keeps_every_bit(count: int) -> None:
    rois, scores, masks = torch.randn(count, 5), torch.rand(count), torch.rand(count, 28, 28)
    labels = torch.randint(1, 2**24, (count,))
    for found, expected in zip(_downloaded(rois, scores, labels, masks), (rois, scores, labels, masks), strict=True):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
