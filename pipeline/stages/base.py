"""What all stages share: each counts its work for the job's progress and isolates images that crash a worker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import ClassVar, NamedTuple, TypeVar

import pyarrow as pa

from pipeline.stages.context import JobContext
from pipeline.stages.quarantine import without_isolation
from pipeline.stages.rows import Row
from pipeline.storage.image_readers import IsolateImage

In = TypeVar("In", bound=Row)
Out = TypeVar("Out")


class StageOutput(NamedTuple):
    """Output rows of a stage, and the work that they stand for.

    Attributes:
        table: the rows.
        images: images of the input that these rows account for.
        bytes_read: bytes that the stage read from storage for them.
    """

    table: pa.Table
    images: int
    bytes_read: int = 0


class Stage(ABC):
    """A stage of the Ray plan: it takes a batch of rows and yields blocks of rows.

    A stage is registered with the quarantine while it works on a batch. After each block it reports the images, the
    bytes read, the seconds and the memory of its process.
    """

    name: ClassVar[str]

    def __init__(self, context: JobContext) -> None:
        self.context = context

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Processes a batch. Ray calls this in a worker."""
        progress, quarantine = self.context.progress, self.context.quarantine
        with quarantine.batch(self.name, batch["image_id"].to_pylist()) as isolate:
            outputs = self.process(batch, isolate)
            while True:
                with progress.stage(self.name) as counts:  # `next` runs the stage, so it is timed; `yield` is not
                    output = next(outputs, None)
                    if output is not None:
                        counts.update(images=output.images, bytes=output.bytes_read)
                if output is None:
                    return
                yield output.table

    @abstractmethod
    def process(self, batch: pa.Table, isolate: IsolateImage | None) -> Iterator[StageOutput]:
        """Does the work of the stage.

        Args:
            isolate: None, unless this batch has crashed a worker before. Then each image must be processed inside the
                context that `isolate` opens for it, see `pipeline.stages.quarantine`.
        """


def map_images(work: Callable[[In], Out], rows: Iterable[In], isolate: IsolateImage | None) -> Iterator[Out]:
    """Applies `work` to each row, in isolation if `isolate` is given.

    If an image has crashed its worker too often, `work` receives its row with `error` set.
    """
    for row in rows:
        with (isolate or without_isolation)(row.image_id) as error:
            result = work(row if error is None else replace(row, error=error))
        yield result
