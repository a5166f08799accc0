"""Ray Data's checkpoint, with which it writes each results file in two phases; see `pipeline.output.results`.

The plan is fed only what is left, and so needs no filter operator of its own.
"""

from __future__ import annotations

from typing import Any

import pyarrow.fs as pafs
from ray.data.checkpoint import CheckpointConfig
from ray.data.checkpoint.checkpoint_filter import IdColumnCheckpointManager
from ray.data.context import DataContext

from pipeline.storage import Place

# What s3fs, gcsfs and adlfs say of a store that is away or overloaded, so that a write is tried again.
PASSING = (
    r"EndpointConnectionError|ConnectTimeoutError|ReadTimeoutError|ConnectionClosedError|HTTPClientError",
    r"Client\w*Error: Cannot connect|ServerDisconnected|[Cc]onnection reset|[Bb]roken pipe|IncompleteRead|TimeoutError",
    r"SlowDown|reduce your request rate|Service ?Unavailable|InternalError|RequestTimeout|\[Errno (5|16)\]",
)


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
    context.retried_io_errors = list(dict.fromkeys([*context.retried_io_errors, *PASSING]))
    return context.checkpoint_config
