"""Images that kill the process that works on them: a fault in a decoder, or more memory than there is.

Ray starts such a process and its batch again, and would do so for ever. So a batch is registered before it is
begun and struck off when it ends. One that was begun before and never struck off is done image by image, each
registered in turn, and an image that was alone with its process when it died `DEATHS` times is not tried again.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.storage.original_bytes import IsolateImage

DEATHS = 3  # of an image alone: one may be a machine that was taken away, three in a row are no chance


class _Register:
    """How often each piece of work was begun and not struck off."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    def begin(self, key: str) -> int:
        self._open[key] += 1
        return self._open[key] - 1

    def end(self, key: str) -> None:
        self._open.pop(key, None)


class Quarantine:
    """A handle to the register that stages can carry to their workers."""

    def __init__(self, register: Any) -> None:
        self._register = register

    @classmethod
    def start(cls) -> Quarantine:
        """An empty register, on the node of the driver: it lasts as long as the job."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        register: Any = ray.remote(_Register)
        return cls(
            register.options(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here).remote()
        )

    @contextmanager
    def batch(self, stage: str, ids: Sequence[int]) -> Iterator[IsolateImage | None]:
        """Registers a batch for the time it is worked on.

        Yields:
            None where nothing is suspected. Else the batch has cost a process before: each image is to be done
            alone, inside the context that the yielded function gives for its id. That yields the error of an
            image which is not to be tried again, or None.
        """
        key = f"{stage} {hashlib.blake2b(np.asarray(ids, np.int64).tobytes(), digest_size=16).hexdigest()}"
        died = ray.get(self._register.begin.remote(key))
        try:
            yield partial(self._alone, stage) if died else None
        finally:
            self._register.end.remote(key)

    @contextmanager
    def _alone(self, stage: str, image_id: int, what: str = "this image alone") -> Iterator[str | None]:
        key = f"{stage} {image_id}"
        died = ray.get(self._register.begin.remote(key))
        if died >= DEATHS:  # it stays registered: its batch may come again, for another image's sake
            yield f"WorkerDied: its process died {DEATHS} times at {what} (stage: {stage})"
            return
        try:
            yield None
        finally:
            self._register.end.remote(key)


def trusted(image_id: int, what: str = "") -> AbstractContextManager[str | None]:
    """The context of an image that nothing is suspected of."""
    return nullcontext()
