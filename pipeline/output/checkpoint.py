"""Sets up Ray Data's checkpoint, with which it writes each results file in two phases; see `pipeline.output.results`.

The plan gets only the images that are left, so it needs no operator that filters out finished rows.
"""

from __future__ import annotations

from typing import Any

import pyarrow.fs as pafs
from ray.data.checkpoint import CheckpointConfig
from ray.data.checkpoint.checkpoint_filter import IdColumnCheckpointManager
from ray.data.context import DataContext

from pipeline.storage import Place

# Errors of s3fs, gcsfs and adlfs when a store cannot be reached or is overloaded. Ray Data then retries the write.
TRANSIENT_ERRORS = (
    r"EndpointConnectionError|ConnectTimeoutError|ReadTimeoutError|ConnectionClosedError|HTTPClientError",
    r"Client\w*Error: Cannot connect|ServerDisconnected|[Cc]onnection reset|[Bb]roken pipe|IncompleteRead|TimeoutError",
    r"SlowDown|reduce your request rate|Service ?Unavailable|InternalError|RequestTimeout|\[Errno (5|16)\]",
)


class CleaningManager(IdColumnCheckpointManager):
    """Deletes the files of interrupted writes, and loads no ids: the catalog is filtered before the plan."""

    def load_checkpoint(
        self, data_file_dir: str | None = None, data_file_filesystem: pafs.FileSystem | None = None
    ) -> tuple[Any, int]:
        """Deletes the files of interrupted writes. Returns (None, 0): Ray Data has nothing to filter."""
        if data_file_dir is not None:
            self._clean_pending_checkpoints(data_file_dir, data_file_filesystem)
        return None, 0


def configure(context: DataContext, output: Place) -> CheckpointConfig:
    """Turns on Ray Data's checkpoint for an output, and retries of writes that fail for a while."""
    context.checkpoint_config = CheckpointConfig(
        id_column="image_id",
        checkpoint_path=output.join("_checkpoint").path,
        delete_checkpoint_on_success=False,
        override_filesystem=output.arrow(),
        checkpoint_manager_cls=CleaningManager,
    )
    context.retried_io_errors = list(dict.fromkeys([*context.retried_io_errors, *TRANSIENT_ERRORS]))
    return context.checkpoint_config
