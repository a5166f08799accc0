"""What a running job tells whoever watches it: counts, phases, questions. Display only: results lie in storage."""

from __future__ import annotations

import resource
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import partial
from typing import Any

KIB = 1 if sys.platform == "darwin" else 1024  # bytes in the unit of ru_maxrss


@dataclass
class Totals:
    """What has been seen so far. A stage's seconds are summed over all workers."""

    images: int = 0
    instances: int = 0
    begun: Counter[str] = field(default_factory=Counter)  # "slices" of the catalog and their "images"
    errors: Counter[str] = field(default_factory=Counter)  # by kind: the error's text before the colon
    seconds: dict[str, float] = field(default_factory=partial(defaultdict, float))  # by stage
    passed: Counter[str] = field(default_factory=Counter)  # images by stage
    read: Counter[str] = field(default_factory=Counter)  # bytes by stage, of those that read or write some
    memory: dict[str, int] = field(default_factory=dict)  # bytes at most resident in one process, by stage
    reasons: Counter[str] = field(default_factory=Counter)  # errors by their text, numbers left out
    batches: Counter[str] = field(default_factory=Counter)  # "images" of forward passes and their "slots"; "pixels" of
    # images as the network sees them and "inputs", padding included

    def add(self, other: Totals) -> None:
        """Adds what another plan has done."""
        self.images += other.images
        self.instances += other.instances
        for name in ("begun", "errors", "passed", "read", "reasons", "batches"):
            getattr(self, name).update(getattr(other, name))
        for stage, seconds in other.seconds.items():
            self.seconds[stage] += seconds
        for stage, memory in other.memory.items():
            self.memory[stage] = max(self.memory.get(stage, 0), memory)


class JobObserver:
    """Told how a job goes; does nothing. Commands show it.

    Attributes:
        record: of the run, once it has ended, whatever ended it; None if it was refused before it began.
    """

    record: dict[str, Any] | None = None

    def phase(self, text: str) -> None:
        """The job has come to a new step."""

    def reading(self, done: int, total: int) -> None:
        """Containers whose content is known, of those to read."""

    def totals(self, totals: Totals, left: int) -> None:
        """Counts while the plan runs; `left` images were owed at its start."""

    def confirm(self, question: str) -> bool:
        """Whether to go on with what cannot simply be undone."""
        return True


def peak_memory() -> int:
    """The most bytes that this process has had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB
