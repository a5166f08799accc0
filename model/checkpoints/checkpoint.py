"""Reads a checkpoint: finds the file, recognises its family, and converts it to our layout.

A checkpoint is a shipped name, a published name, a path, or a URI that fsspec can open. Our own files are safetensors
with the preset in the metadata. Files of other frameworks are recognised by their keys. A file is read only as
tensors and plain values: nothing in it is executed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from model.checkpoints.families.detectron2 import DETECTRON2
from model.checkpoints.families.family import CheckpointFamily, ConvertedCheckpoint, ForeignCheckpoint
from model.checkpoints.families.mmdetection import MMDETECTION
from model.checkpoints.families.torchvision import TORCHVISION
from model.checkpoints.file_formats import ParsedFile, parse_file
from model.checkpoints.files import read_bytes, read_sibling, redact
from model.checkpoints.published import PUBLISHED, fetch_published
from model.checkpoints.shipped import SHIPPED, shipped_names
from model.errors import PresetError, WeightsError
from model.preset import Preset

# To add a family, write a module with a `CheckpointFamily` and list it here. The first that recognises the keys
# converts the file. torchvision comes last because it accepts any keys and reports those that are missing.
FAMILIES: tuple[CheckpointFamily, ...] = (DETECTRON2, MMDETECTION, TORCHVISION)


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint in our layout.

    Attributes:
        state: tensors under torchvision's names; floating-point tensors are float32.
        preset: architecture, conventions, thresholds and classes.
        digest: sha256 of the file, hex.
        provenance: how the weights were made, as the file says; empty if it does not.
    """

    state: dict[str, Tensor]
    preset: Preset
    digest: str
    provenance: dict[str, Any]


def read_checkpoint(weights: str | os.PathLike[str], storage: Mapping[str, Any] | None = None) -> Checkpoint:
    """Reads a checkpoint, and converts it to our layout if another framework wrote it.

    Args:
        weights: a shipped name, a path or a URI; "coco" or "coco-v2" for torchvision's published weights.
        storage: fsspec's storage options for a URI. The environment supplies the rest.

    Raises:
        WeightsError: The file does not exist, is not a checkpoint, or does not fit any family.
    """
    location = _locate(str(weights))
    data = read_bytes(location, storage)
    file = parse_file(data, redact(location))
    provenance = _parse_provenance(file.metadata.get("provenance", "{}"), location)
    try:
        if preset_json := file.metadata.get("preset"):
            state, preset = file.state, Preset.from_json(preset_json)
        else:
            converted = _convert(file, location, storage)
            state, preset, provenance = converted.state, converted.preset, converted.provenance
    except (WeightsError, PresetError) as error:
        raise WeightsError(f"{redact(location)}: {error}") from None
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    return Checkpoint(state, preset, hashlib.sha256(data).hexdigest(), provenance)


def _convert(file: ParsedFile, location: str, storage: Mapping[str, Any] | None) -> ConvertedCheckpoint:
    """Converts a file of another framework with the first family that recognises its keys."""
    filename = location.rstrip("/").rpartition("/")[2]
    family = next(family for family in FAMILIES if family.recognises(file.state))
    return family.convert(
        ForeignCheckpoint(
            filename, file.state, file.training_metadata, lambda names: read_sibling(location, names, storage)
        )
    )


def _locate(weights: str) -> str:
    """Returns the path or URI of a shipped name, a published name, a path or a URI."""
    if weights in shipped_names():
        return str(SHIPPED / f"{weights}.safetensors")
    if weights in PUBLISHED:
        return str(fetch_published(weights))
    if "://" not in weights and not Path(weights).is_file():
        names = ", ".join(shipped_names()) or "none"
        raise WeightsError(
            f"no weights named {weights!r} and no such file; shipped: {names}; published: {', '.join(PUBLISHED)}"
        )
    return weights


def _parse_provenance(text: str, location: str) -> dict[str, Any]:
    try:
        provenance = json.loads(text)
    except json.JSONDecodeError:
        provenance = None
    if not isinstance(provenance, dict):
        raise WeightsError(f"{redact(location)}: its provenance is not a JSON object")
    return provenance
