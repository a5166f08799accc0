"""The options of a job."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from model.masks.tile_grid import Tiling
from pipeline.storage import Place, redacted

MAX_PIXELS, MAX_PIXELS_TILED = 200_000_000, 1_000_000_000  # 4 bytes each while an image is decoded


@dataclass(frozen=True)
class Options:
    """What a user asks for. `overrides` are fields of the checkpoint's preset (`min_score`, ...)."""

    inputs: tuple[Place, ...]
    output: Place
    weights: str = "nuclei"
    precision: str = "auto"
    overrides: dict[str, Any] = field(default_factory=dict)
    pattern: str | None = None
    column: str | None = None
    workers: tuple[int, int] | None = None
    gpus_per_worker: float | None = None
    batch_size: int | None = None
    compiled: bool = False
    tiling: Tiling | None = None
    nvjpeg: bool = False
    max_pixels: int | None = None
    limit: int | None = None
    retry_errors: bool = False
    max_error_rate: float | None = None
    overwrite: bool = False

    @property
    def pixel_limit(self) -> int:
        """The most pixels of an image: what the user set, or what a decoded image may cost in memory."""
        if self.max_pixels is not None:
            return self.max_pixels
        return MAX_PIXELS_TILED if self.tiling else MAX_PIXELS

    def plain(self) -> dict[str, Any]:
        """The options as JSON, without storage options: those may hold credentials."""
        plain = {k: v for k, v in vars(self).items() if k not in ("inputs", "output")}
        places = {"inputs": [redacted(p.url) for p in self.inputs], "output": redacted(self.output.url)}
        tiling = asdict(self.tiling) if self.tiling else None
        return plain | places | {"weights": redacted(self.weights), "tiling": tiling}
