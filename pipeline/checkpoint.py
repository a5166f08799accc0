"""Ray Data's checkpoint, and the ids that are done.

Ray Data writes each results file in two phases: the ids as a pending checkpoint, the data file, then the
pending file is renamed. So after the data files of pending checkpoints have been deleted, what lies
under results/ is exactly what was committed, and one columnar read of it says what is done. The plan is
then fed only what is left, and needs no filter operator of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.dataset as pads
import pyarrow.fs as pafs
from ray.data.checkpoint import CheckpointConfig
from ray.data.checkpoint.checkpoint_filter import IdColumnCheckpointManager
from ray.data.checkpoint.checkpoint_writer import PENDING_CHECKPOINT_SUFFIX
from ray.data.context import DataContext

from pipeline.storage import Place


class CleaningManager(IdColumnCheckpointManager):
    """Deletes what was left half written and loads nothing: the catalog is filtered before the plan."""

    def load_checkpoint(
        self, data_file_dir: str | None = None, data_file_filesystem: pafs.FileSystem | None = None
    ) -> tuple[Any, int]:
        """Cleans up; (None, 0) tells Ray Data that there is nothing to filter."""
        if data_file_dir is not None:
            self._clean_pending_checkpoints(data_file_dir, data_file_filesystem)
        return None, 0


def configure(context: DataContext, output: Place) -> CheckpointConfig:
    """Turns Ray Data's checkpoint on for an output."""
    context.checkpoint_config = CheckpointConfig(
        id_column="image_id",
        checkpoint_path=output.join("_checkpoint").path,
        delete_checkpoint_on_success=False,
        override_filesystem=output.arrow(),
        checkpoint_manager_cls=CleaningManager,
    )
    return context.checkpoint_config


def needs_cleaning(output: Place) -> bool:
    """Whether a killed run has left something half written."""
    return bool(output.join("_checkpoint").list(f"{PENDING_CHECKPOINT_SUFFIX}.parquet"))


def clean(context: DataContext, output: Place) -> None:
    """Removes it, as a Ray task."""
    results = output.join("results")
    CleaningManager(configure(context, output), context).load_checkpoint(results.path, results.arrow())


def done_ids(output: Place) -> np.ndarray:
    """int64, sorted: the images that have their row. True once nothing half written is left."""
    results = output.join("results")
    files = [p.path for p in results.list(".parquet")]
    if not files:
        return np.zeros(0, np.int64)
    table = pads.dataset(files, filesystem=results.arrow(), format="parquet").to_table(columns=["image_id"])
    return np.sort(table["image_id"].to_numpy())
