"""The description in the metadata of every results file: which network and settings made it.

It is enough to interpret the rows (classes, thresholds) and to refuse to mix results of different settings.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pipeline.output.output_files import list_files, no_results, read_footer
from pipeline.schema import description_of
from pipeline.storage import Place, redacted

if TYPE_CHECKING:  # a reader of an output needs no checkpoint
    from model import Checkpoint
    from pipeline.options import Options

# All results of one output must agree in these.
SAME = ("weights_sha256", "preset", "precision", "compiled", "tiling", "nvjpeg")


def describe(weights: Checkpoint, options: Options) -> dict[str, Any]:
    """Builds the description of the results that a checkpoint gives with these options."""
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
    """Compares two descriptions where results of one output must agree.

    A setting that is missing from the older description counts as off.

    Returns:
        What differs, for an error message; empty if nothing does.
    """
    return "; ".join(_change(k, old.get(k), new[k]) for k in SAME if (old.get(k) or None) != (new[k] or None))


def read_description(output: Place) -> dict[str, Any]:
    """Reads the description from the first complete results file.

    Returns:
        Schema version, classes, weights, preset and thresholds; see `describe`.

    Raises:
        InputError: there are no results yet, this is not an output, or it cannot be read.
    """
    for file in list_files(output, "results"):
        if (footer := read_footer(file)) is not None:
            return description_of(footer.schema.to_arrow_schema())
    raise no_results(output)


def _change(key: str, old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        return ", ".join(f"{k} {old.get(k)} -> {new.get(k)}" for k in new | old if old.get(k) != new.get(k))
    return f"{key} {str(old)[:12]} -> {str(new)[:12]}"
