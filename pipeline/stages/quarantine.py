"""Quarantine for images that crash a worker: a decoder bug, or an image that needs more memory than there is.

Ray restarts a crashed worker with the same batch, and would repeat that forever. So a stage registers a batch before
it starts and removes it when it has finished. A batch that is still registered when it starts again has crashed a
worker. Its images are then processed one by one, and each is registered in turn. An image that was alone in its worker
`MAX_CRASHES` times when that worker died is not tried again: it becomes an error row.
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

from pipeline.cluster.nodes import start_on_driver_node
from pipeline.storage.image_readers import IsolateImage

MAX_CRASHES = 3  # one crash may be a machine that was taken away; three with the same image are no coincidence


class _Register:
    """Counts how often each piece of work has started without finishing."""

    def __init__(self) -> None:
        self._unfinished: Counter[str] = Counter()

    def start(self, key: str) -> int:
        """Registers work; returns how often it has crashed before."""
        self._unfinished[key] += 1
        return self._unfinished[key] - 1

    def finish(self, key: str) -> None:
        self._unfinished.pop(key, None)


class Quarantine:
    """A handle to the register, which stages carry to their workers."""

    def __init__(self, register: Any) -> None:
        self._register = register

    @classmethod
    def start(cls) -> Quarantine:
        """Starts an empty register on the driver's node. It lives as long as the job."""
        return cls(start_on_driver_node(_Register, max_task_retries=-1))

    @contextmanager
    def batch(self, stage: str, ids: Sequence[int]) -> Iterator[IsolateImage | None]:
        """Registers a batch while a stage works on it.

        Yields:
            None for a batch that has not crashed a worker. Otherwise a function: process each image inside the context
            that it opens for the image's id. The context yields None, or the error of an image that has crashed its
            worker too often and must not be tried again.
        """
        key = f"{stage} {hashlib.blake2b(np.asarray(ids, np.int64).tobytes(), digest_size=16).hexdigest()}"
        crashes = ray.get(self._register.start.remote(key))
        try:
            yield partial(self._isolated, stage) if crashes else None
        finally:
            self._register.finish.remote(key)

    @contextmanager
    def _isolated(self, stage: str, image_id: int, what: str = "this image alone") -> Iterator[str | None]:
        key = f"{stage} {image_id}"
        crashes = ray.get(self._register.start.remote(key))
        if crashes >= MAX_CRASHES:  # it stays registered, because another image may crash its batch again
            yield f"WorkerDied: its process died {MAX_CRASHES} times at {what} (stage: {stage})"
            return
        try:
            yield None
        finally:
            self._register.finish.remote(key)


def without_isolation(image_id: int, what: str = "") -> AbstractContextManager[str | None]:
    """Opens the context of an image from a batch that has not crashed a worker."""
    return nullcontext()
