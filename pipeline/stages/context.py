"""What every stage of a job knows, as one object that travels to the workers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import ray

from model.masks.tile_grid import Tiling
from model.preset import Preset
from pipeline.cluster.progress import Progress
from pipeline.stages.quarantine import Quarantine


@dataclass(frozen=True)
class Network:
    """What an actor needs to load the network.

    Attributes:
        checkpoint: a `model.Checkpoint` as the driver read it. So all actors load the same one, and a local path
            needs to exist on the driver's machine only.
        precision: see `model.load_model`.
        compiled: see `model.load_model`.
        overrides: fields of the checkpoint's preset with other values.
    """

    checkpoint: ray.ObjectRef
    precision: str = "auto"
    compiled: bool = False
    overrides: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class JobContext:
    """What every stage of a job knows.

    Attributes:
        network: what an actor loads.
        preset: the checkpoint's preset with the overrides applied.
        description: the metadata of each results file, see `pipeline.schema`.
        storage_options: fsspec options for the images.
        pixel_limit: the most pixels an image may have.
        tiling: how to cut large images into tiles; None: never.
        nvjpeg: whether the actor decodes JPEG files on its GPU.
        progress: counts what the stages do.
        quarantine: remembers which batches crashed a worker.
    """

    network: Network
    preset: Preset
    description: dict[str, Any]
    storage_options: dict[str, Any]
    pixel_limit: int
    progress: Progress
    quarantine: Quarantine
    tiling: Tiling | None = None
    nvjpeg: bool = False

    def needs_tiles(self, height: int, width: int) -> bool:
        """Whether an image of this size is cut into tiles."""
        return self.tiling is not None and self.tiling.needed(height, width)
