"""What a user asks of a job, who watches it, and what its results say of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from model import Checkpoint
from model.masks.tile_grid import Tiling
from pipeline.storage import Place, redacted

MAX_PIXELS, MAX_PIXELS_TILED = 200_000_000, 1_000_000_000  # 4 bytes each while an image is decoded
# What all results of one output have in common.
SAME = ("weights_sha256", "preset", "precision", "compiled", "tiling", "nvjpeg")


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


def describe(weights: Checkpoint, options: Options) -> dict[str, Any]:
    """What the metadata of every results file says: enough to interpret it and to refuse mixing."""
    preset = weights.preset.replace(**options.overrides)
    return {
        "weights": redacted(options.weights),
        "weights_sha256": weights.digest,
        "preset": json.loads(preset.to_json()),
        "precision": options.precision,
        "compiled": options.compiled,
        "tiling": asdict(options.tiling) if options.tiling else None,
        "nvjpeg": options.nvjpeg,
        "min_score": preset.min_score,
        "max_detections": preset.max_detections,
        "classes": dict(zip(map(str, preset.category_ids), preset.categories, strict=True)),
    }


def difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """How two descriptions differ where results of one output must not; empty if they do not.

    A setting that is off is as good as one that the older description does not know.
    """
    return "; ".join(_shown(k, old.get(k), new[k]) for k in SAME if (old.get(k) or None) != (new[k] or None))


def _shown(key: str, old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        return ", ".join(f"{k} {old.get(k)} -> {new.get(k)}" for k in new | old if old.get(k) != new.get(k))
    return f"{key} {str(old)[:12]} -> {str(new)[:12]}"
