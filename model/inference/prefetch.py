"""Batches on their way to a device: the next one is uploaded while the network works on this one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Generic, TypeVar

import torch
from torch import Tensor

Plan = TypeVar("Plan")
Upload = Callable[[Plan], Callable[[], Tensor]]  # begins a batch's upload; what it returns waits for the batch


class Prefetcher(Generic[Plan]):
    """Each plan with its batch, of which the next is begun while this one is worked on.

    Pinning images takes the processor some milliseconds, so it is done where the device has something to do:
    whoever iterates calls `prepare` once work on the batch has been launched and before it is waited for.
    """

    def __init__(self, plans: Iterable[Plan], upload: Upload[Plan]) -> None:
        self._plans, self._upload = iter(plans), upload
        self._coming: tuple[Plan, Callable[[], Tensor]] | None = None

    def prepare(self) -> None:
        """Begins the upload of the next batch, if there is one and it has not been begun."""
        if self._coming is None and (plan := next(self._plans, None)) is not None:
            self._coming = plan, self._upload(plan)

    def __iter__(self) -> Iterator[tuple[Plan, Tensor]]:
        while True:
            self.prepare()
            if self._coming is None:
                return
            (plan, arrive), self._coming = self._coming, None
            yield plan, arrive()


def uploads(make: Callable[[Plan], Tensor], device: torch.device) -> Upload[Plan]:
    """How the batch that `make` makes of a plan comes to a device.

    On a GPU the copies and kernels of `make` run on a stream of their own: what it uploads has to be pinned
    (`pinned`) for the copy to run beside the computation. Elsewhere a batch is made when it is waited for.
    """
    if device.type != "cuda":
        return lambda plan: partial(make, plan)
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))  # which may still be decoding what `make` reads

    def upload(plan: Plan) -> Callable[[], Tensor]:
        with torch.cuda.stream(side):
            batch = make(plan)
            return partial(_arrived, batch, side.record_event())

    return upload


def pinned(image: Tensor, device: torch.device) -> Tensor:
    """An image in memory from which a GPU copies without the processor; as it is for other devices."""
    return image.pin_memory() if device.type == "cuda" and not image.is_cuda else image


def _arrived(batch: Tensor, made: torch.cuda.Event) -> Tensor:
    """Lets the stream of the computation wait for the batch, and the allocator know that it uses it."""
    current = torch.cuda.current_stream(batch.device)
    current.wait_event(made)
    batch.record_stream(current)
    return batch
