"""Reads a checkpoint of any family.

A checkpoint is a shipped name, a published one, a path, or a URI that fsspec can open. Our own files are
safetensors with the preset in the metadata; torchvision's, detectron2's and mmdetection's are recognised by
their keys. A file is only ever read as tensors: nothing in it is executed.
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

from model.checkpoints.detectron2 import from_detectron2, is_detectron2, parse_config
from model.checkpoints.files import Content, beside, parse, read_bytes, shown
from model.checkpoints.mmdetection import from_mmdetection, is_mmdetection, style_of
from model.checkpoints.published import PUBLISHED, fetch_published
from model.checkpoints.torchvision import modernise, preset_of
from model.errors import PresetError, WeightsError
from model.preset import Preset

SHIPPED = Path(__file__).parents[1] / "weights"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read: tensors by torchvision's names, what they are, and where they came from.

    Attributes:
        digest: sha256 of the file, hex.
        provenance: how it was made, as the file says; empty if it does not.
    """

    state: dict[str, Tensor]
    preset: Preset
    digest: str
    provenance: dict[str, Any]


def shipped_names() -> list[str]:
    """Checkpoints that come with the package."""
    return sorted(p.stem for p in SHIPPED.glob("*.safetensors"))


def read_checkpoint(weights: str | os.PathLike[str], storage: Mapping[str, Any] | None = None) -> Checkpoint:
    """Reads a checkpoint's tensors and preset; one of another family is brought into our layout.

    Args:
        weights: a shipped name, a path or a URI; "coco" or "coco-v2" for torchvision's published weights.
        storage: fsspec's options for the store of a URI, beyond what the environment says.

    Raises:
        WeightsError: there is none, it is no checkpoint, or of a layout this version does not know.
    """
    location = _location(str(weights))
    data = read_bytes(location, storage)
    digest = hashlib.sha256(data).hexdigest()
    content = parse(data, shown(location))
    provenance = _provenance(content.metadata.get("provenance", "{}"), location)
    try:
        if preset_json := content.metadata.get("preset"):
            state, preset = content.state, Preset.from_json(preset_json)
        else:
            state, preset, provenance = _imported(content, location, storage)
    except (WeightsError, PresetError) as error:
        raise WeightsError(f"{shown(location)}: {error}") from None
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    return Checkpoint(state, preset, digest, provenance)


def _imported(
    content: Content, location: str, storage: Mapping[str, Any] | None
) -> tuple[dict[str, Tensor], Preset, dict[str, Any]]:
    """Tensors and preset of a foreign checkpoint, recognised by its keys, and what was taken for granted."""
    name = location.rstrip("/").rpartition("/")[2]
    if is_detectron2(content.state):
        found = beside(location, [f"{name.rpartition('.')[0]}.yaml", "config.yaml"], storage)
        config = parse_config(found[1], found[0]) if found else None
        said = f"conventions of {found[0]}" if found else "no config.yaml beside it: conventions of the model zoo"
        return *from_detectron2(content.state, config), {"imported_from": "detectron2", "note": said}
    if is_mmdetection(content.state):
        style = style_of(content.meta, name)
        said = f"style {style}; conventions of the published configs"
        return *from_mmdetection(content.state, content.meta, name), {"imported_from": "mmdetection", "note": said}
    state = modernise(content.state)
    preset = preset_of(state)
    said = "bn_eps 0, as torchvision's COCO weights and their descendants have it; from ImageNet weights it is 1e-5"
    return state, preset, {"note": said} if preset.frozen_bn and not preset.bn_eps else {}


def _location(weights: str) -> str:
    """Where the file of a shipped name, a published name, a path or a URI is."""
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


def _provenance(text: str, location: str) -> dict[str, Any]:
    try:
        provenance = json.loads(text)
    except json.JSONDecodeError:
        provenance = None
    if not isinstance(provenance, dict):
        raise WeightsError(f"{location}: its provenance is not a JSON object")
    return provenance
