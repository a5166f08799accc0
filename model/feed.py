"""Batches on their way to a device: the next one is uploaded while the network works on this one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

Plan = TypeVar("Plan")


def ahead(plans: Iterable[Plan], make: Callable[[Plan], Tensor], device: torch.device) -> Iterator[tuple[Plan, Tensor]]:
    """Each plan with the batch that `make` makes of it on the device.

    On a GPU the copies and kernels of `make` run on a stream of their own, one batch ahead: what it uploads has
    to be pinned (`pinned`) for the copy to run beside the computation. Elsewhere a batch is made when it is asked for.
    """
    if device.type != "cuda":
        for plan in plans:
            yield plan, make(plan)
        return
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))  # which may still be decoding what `make` reads
    waiting: tuple[Plan, Tensor, torch.cuda.Event] | None = None
    for plan in plans:
        with torch.cuda.stream(side):
            batch = make(plan)
            made = side.record_event()
        if waiting is not None:
            yield _arrived(*waiting)
        waiting = (plan, batch, made)
    if waiting is not None:
        yield _arrived(*waiting)


def pinned(image: Tensor, device: torch.device) -> Tensor:
    """An image in memory from which a GPU copies without the processor; as it is for other devices."""
    return image.pin_memory() if device.type == "cuda" and not image.is_cuda else image


def _arrived(plan: Plan, batch: Tensor, made: torch.cuda.Event) -> tuple[Plan, Tensor]:
    """Lets the stream of the computation wait for the batch, and the allocator know that it uses it."""
    current = torch.cuda.current_stream(batch.device)
    current.wait_event(made)
    batch.record_stream(current)
    return plan, batch
