"""What a running job reports to its observer: phases, counts, questions. It is for display; results are in storage."""

from __future__ import annotations

import resource
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import partial
from typing import Any

MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes


@dataclass
class Totals:
    """Counts of a job so far. The seconds of a stage are summed over all workers.

    Attributes:
        images: that have passed the segment stage.
        instances: found in them.
        started: "slices" of the catalog that have started, and their "images".
        errors: images with an error by kind, which is the error's text before the colon.
        seconds: by stage.
        passed: images by stage.
        read: bytes by stage, for stages that read or write some.
        memory: most resident bytes of one process, by stage.
        reasons: images with an error by the error's text, without its numbers.
        batches: "images" in forward passes and the "slots" for them; "pixels" of these images as the network sees them
            and "inputs", the same with padding.
    """

    images: int = 0
    instances: int = 0
    started: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=partial(defaultdict, float))
    passed: Counter[str] = field(default_factory=Counter)
    read: Counter[str] = field(default_factory=Counter)
    memory: dict[str, int] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    batches: Counter[str] = field(default_factory=Counter)

    def add(self, other: Totals) -> None:
        """Adds the counts of another plan."""
        self.images += other.images
        self.instances += other.instances
        for name in ("started", "errors", "passed", "read", "reasons", "batches"):
            getattr(self, name).update(getattr(other, name))
        for stage, seconds in other.seconds.items():
            self.seconds[stage] += seconds
        for stage, memory in other.memory.items():
            self.memory[stage] = max(self.memory.get(stage, 0), memory)


class JobObserver:
    """Receives the events of a job. This one ignores them; commands display them.

    Attributes:
        record: the record of the run when it has ended, however it ended; None if the job was refused before it
            started.
    """

    record: dict[str, Any] | None = None

    def phase(self, text: str) -> None:
        """The job starts a new step."""

    def catalog_progress(self, done: int, total: int) -> None:
        """The job has catalogued `done` of `total` containers."""

    def totals(self, totals: Totals, total: int) -> None:
        """Counts while the plan runs. It segments `total` images."""

    def confirm(self, question: str) -> bool:
        """Whether to go on with something that is hard to undo."""
        return True


def peak_memory() -> int:
    """The most bytes that this process has had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT
