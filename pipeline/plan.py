"""The Ray Data plan: catalog rows in at the top, Parquet out at the bottom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray

from model.preset import Preset
from pipeline.catalog.slices import Slice
from pipeline.cluster.progress import Progress
from pipeline.cluster.sizing import Resources
from pipeline.stages.decode import Decode
from pipeline.stages.encode import Encode
from pipeline.stages.fetch import Fetch
from pipeline.stages.quarantine import Quarantine
from pipeline.stages.segment import Network, Segment
from pipeline.stages.source import CatalogSource
from pipeline.storage import Place
from pipeline.storage.atomic_files import results_filesystem


def execute(
    output: Place,
    work: Sequence[Slice],
    network: Network,
    preset: Preset,
    description: dict[str, Any],
    resources: Resources,
    progress: Progress,
    quarantine: Quarantine,
    max_pixels: int,
    rows_per_file: int,
) -> None:
    """Runs the job to its end; see the stages for what a row is between them."""
    progress.owes(sum(len(s.rows) for s in work))
    ray.data.DataContext.get_current().target_max_block_size = resources.block
    light = {"batch_format": "pyarrow", "batch_size": None, "num_cpus": resources.task_cpus, "zero_copy_batch": True}
    dataset = ray.data.read_datasource(
        CatalogSource(output, work),
        override_num_blocks=len(work),
        num_cpus=resources.task_cpus,
    )
    dataset = dataset.map_batches(Fetch(output.options, progress, quarantine), **light)
    decode = Decode(preset, max_pixels, network.tiling, network.nvjpeg, progress, quarantine, resources.block)
    dataset = dataset.map_batches(decode, **light)
    device = "auto" if resources.num_gpus else "cpu"  # on one machine, Ray does not hide GPUs from who has none
    dataset = dataset.map_batches(
        Segment,
        fn_constructor_args=(network, resources.threads, device, resources.batch_size, progress, quarantine),
        compute=resources.pool,
        batch_format="pyarrow",
        batch_size=resources.window,
        num_gpus=resources.num_gpus or None,
        num_cpus=resources.num_cpus,
    )
    dataset = dataset.map_batches(Encode(preset, network.tiling, description, progress, quarantine), **light)
    results = output.join("results")
    dataset.write_parquet(
        results.path,
        filesystem=results_filesystem(output),
        compression="zstd",
        min_rows_per_file=rows_per_file,
        ray_remote_args={"num_cpus": resources.task_cpus},
    )
