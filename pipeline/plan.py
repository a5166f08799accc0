"""The Ray Data plan: catalog rows in at the top, Parquet out at the bottom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray

from pipeline.catalog.slices import Slice
from pipeline.cluster.actor_pool import Resources
from pipeline.stages.context import JobContext
from pipeline.stages.decode import Decode
from pipeline.stages.encode import Encode
from pipeline.stages.fetch import Fetch
from pipeline.stages.segment import Segment
from pipeline.stages.source import CatalogSource
from pipeline.storage import Place
from pipeline.storage.atomic_files import results_filesystem

MIN_FILES = 50  # results files of a run: a restart repeats at most about this fraction of it
ROWS_PER_FILE = (32, 4096)  # bounds


def execute(output: Place, work: Sequence[Slice], context: JobContext, resources: Resources) -> None:
    """Segments the images of `work` and writes their rows to the output. `pipeline.stages.rows` has the rows between.

    Args:
        context: what every stage knows.
        resources: what the stages ask Ray for.
    """
    images = sum(len(s.rows) for s in work)
    context.progress.expect(images)
    ray.data.DataContext.get_current().target_max_block_size = resources.block
    task: dict[str, Any] = {"num_cpus": resources.task_cpus}
    batches: dict[str, Any] = {"batch_format": "pyarrow", "batch_size": None, "zero_copy_batch": True}

    dataset = ray.data.read_datasource(CatalogSource(output, work), override_num_blocks=len(work), **task)
    dataset = dataset.map_batches(Fetch(context), **batches, **task)
    dataset = dataset.map_batches(Decode(context, resources.block), **batches, **task)
    dataset = dataset.map_batches(
        Segment,
        fn_constructor_args=(context, resources.device, resources.threads, resources.batch_size),
        compute=resources.pool,
        batch_format="pyarrow",
        batch_size=resources.window,
        num_gpus=resources.num_gpus or None,
        num_cpus=resources.num_cpus,
    )
    dataset = dataset.map_batches(Encode(context), **batches, **task)
    dataset.write_parquet(
        output.join("results").path,
        filesystem=results_filesystem(output),
        compression="zstd",
        min_rows_per_file=_rows_per_file(images),
        ray_remote_args=task,
    )


def _rows_per_file(images: int) -> int:
    low, high = ROWS_PER_FILE
    return min(max(images // MIN_FILES, low), high)
