"""Mask R-CNN for inference, usable without the rest of the project: `load_model("nuclei").predict([image])`.

The names below are the public API. Those that need PyTorch are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from model.errors import PresetError, RleError, WeightsError
from model.preset import Preset

if TYPE_CHECKING:
    from model import rle
    from model.checkpoints.checkpoint import Checkpoint, read_checkpoint, shipped_names
    from model.detections import Detections
    from model.load import load_model
    from model.mask_rcnn import MaskRCNN

# PyTorch takes seconds to import. A program that needs only an error or a preset should not wait for it.
_MODULE_OF = dict.fromkeys(("Checkpoint", "read_checkpoint", "shipped_names"), "model.checkpoints.checkpoint")
_MODULE_OF |= {"Detections": "model.detections", "MaskRCNN": "model.mask_rcnn", "load_model": "model.load"}

__all__ = [
    "Checkpoint",
    "Detections",
    "MaskRCNN",
    "Preset",
    "PresetError",
    "RleError",
    "WeightsError",
    "load_model",
    "read_checkpoint",
    "rle",
    "shipped_names",
]


def __getattr__(name: str) -> Any:
    if name == "rle":
        return importlib.import_module("model.rle")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)
