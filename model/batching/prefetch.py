"""Prefetches batches: the next one is uploaded while the network works on the current one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Generic, TypeVar

import torch
from torch import Tensor

Plan = TypeVar("Plan")  # describes a batch that does not exist yet, for example the positions of its images
Upload = Callable[[Plan], Callable[[], Tensor]]  # starts a batch's upload and returns a function that waits for it


class Prefetcher(Generic[Plan]):
    """Iterates over plans and their batches, and can start the next upload early.

    Pinning images takes the processor some milliseconds. The caller should spend them while the device is busy:
    it calls `prefetch` after it has launched work on a batch and before it waits for the results.

    Args:
        plans: what each batch is made from.
        upload: starts the upload of one batch.
    """

    def __init__(self, plans: Iterable[Plan], upload: Upload[Plan]) -> None:
        self._plans, self._upload = iter(plans), upload
        self._next: tuple[Plan, Callable[[], Tensor]] | None = None

    def prefetch(self) -> None:
        """Starts the upload of the next batch, unless it has started or there is none."""
        if self._next is None and (plan := next(self._plans, None)) is not None:
            self._next = plan, self._upload(plan)

    def __iter__(self) -> Iterator[tuple[Plan, Tensor]]:
        while True:
            self.prefetch()
            if self._next is None:
                return
            (plan, wait), self._next = self._next, None
            yield plan, wait()


def uploader(make: Callable[[Plan], Tensor], device: torch.device) -> Upload[Plan]:
    """Returns how the batch that `make` makes from a plan gets to a device.

    On a GPU, the copies and kernels of `make` run on a second stream. The images it uploads must be pinned (see
    `pin`) for the copy to overlap the computation. On other devices a batch is made when it is needed.
    """
    if device.type != "cuda":
        return lambda plan: partial(make, plan)
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))  # it may still be decoding what `make` reads

    def upload(plan: Plan) -> Callable[[], Tensor]:
        with torch.cuda.stream(stream):
            batch = make(plan)
            return partial(_wait_for_batch, batch, stream.record_event())

    return upload


def pin(image: Tensor, device: torch.device) -> Tensor:
    """Returns an image in pinned memory, from which a GPU copies by itself; unchanged for other devices."""
    return image.pin_memory() if device.type == "cuda" and not image.is_cuda else image


def _wait_for_batch(batch: Tensor, uploaded: torch.cuda.Event) -> Tensor:
    """Makes the current stream wait for a batch, and tells the allocator that this stream uses it."""
    current = torch.cuda.current_stream(batch.device)
    current.wait_event(uploaded)
    batch.record_stream(current)
    return batch
