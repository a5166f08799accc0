"""What all stages share: blocks are counted one by one, and images of a suspected batch are isolated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.stages.base import Stage, StageOutput, map_images
from pipeline.stages.context import JobContext
from pipeline.stages.rows import FetchedImage


@dataclass
class Recorder:
    """Stands for the progress and for the quarantine, and records what a stage tells them."""

    crashed: bool = False
    given_up: frozenset[int] = frozenset()
    events: list[Any] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[Counter[str]]:
        counts = Counter[str]()
        yield counts
        self.events.append((name, dict(counts)))

    @contextmanager
    def batch(self, stage: str, ids: Sequence[int]) -> Iterator[Any]:
        self.events.append(("start", *ids))
        yield self.isolate if self.crashed else None
        self.events.append("finish")

    @contextmanager
    def isolate(self, image_id: int, what: str = "") -> Iterator[str | None]:
        self.events.append(("alone", image_id))
        yield "WorkerDied: x" if image_id in self.given_up else None


class Pairs(Stage):
    """Yields its rows in blocks of two, each with the id of its image as its data."""

    name = "pairs"

    def process(self, batch: pa.Table, isolate: Any) -> Iterator[StageOutput]:
        rows = list(map_images(self.fill, FetchedImage.from_table(batch), isolate))
        for i in range(0, len(rows), 2):
            yield StageOutput(FetchedImage.to_table(rows[i : i + 2]), len(rows[i : i + 2]), bytes_read=10)

    def fill(self, row: FetchedImage) -> FetchedImage:
        return row if row.error else FetchedImage(row.image_id, row.uri, None, str(row.image_id).encode())


def processed(recorder: Recorder) -> list[list[FetchedImage]]:
    context: Any = JobContext(None, None, {}, {}, 0, recorder, recorder)  # type: ignore[arg-type]
    batch = FetchedImage.to_table([FetchedImage(i, f"{i}.png", None) for i in range(3)])
    return [list(FetchedImage.from_table(table)) for table in Pairs(context)(batch)]


def test_a_stage_registers_its_batch_and_counts_each_block() -> None:
    recorder = Recorder()
    blocks = processed(recorder)
    assert [[row.data for row in block] for block in blocks] == [[b"0", b"1"], [b"2"]]
    counted = [("pairs", {"images": n, "bytes": 10}) for n in (2, 1)]
    assert recorder.events == [("start", 0, 1, 2), *counted, ("pairs", {}), "finish"]


def test_images_of_a_batch_that_crashed_a_worker_are_isolated() -> None:
    recorder = Recorder(crashed=True, given_up=frozenset({1}))
    rows = [row for block in processed(recorder) for row in block]
    assert [row.error for row in rows] == [None, "WorkerDied: x", None]
    assert [row.data for row in rows] == [b"0", None, b"2"]
    assert [event for event in recorder.events if event[0] == "alone"] == [("alone", i) for i in range(3)]
