"""Reads the header of a safetensors file: what the checkpoint is, without its tensors and without PyTorch.

A safetensors file starts with the length of its header in 8 bytes, little-endian, and the header: a JSON object with
one entry per tensor and the metadata under `__metadata__` (https://huggingface.co/docs/safetensors).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import WeightsError
from model.preset import Preset

MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Header:
    """What our own checkpoints say about themselves.

    Attributes:
        preset: architecture, conventions, thresholds and classes.
        provenance: how the weights were made; empty if the file does not say.
        shapes: of the floating-point tensors, by name.
    """

    preset: Preset
    provenance: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]

    @property
    def parameters(self) -> int:
        """Number of trained parameters; the statistics of batch normalisation do not count."""
        return sum(math.prod(shape) for name, shape in self.shapes.items() if ".running_" not in name)


def read_header(path: Path) -> Header:
    """Reads the header of a checkpoint of ours.

    Raises:
        WeightsError: the file cannot be read, or is not a checkpoint of ours.
        PresetError: the preset is not one that this version knows.
    """
    content = _read_json(path)
    metadata = content.pop("__metadata__", {})
    if "preset" not in metadata:
        raise WeightsError(f"{path} is not a checkpoint that maskfleet wrote")
    shapes = {name: tuple(tensor["shape"]) for name, tensor in content.items() if tensor["dtype"] in FLOATS}
    return Header(Preset.from_json(metadata["preset"]), json.loads(metadata.get("provenance", "{}")), shapes)


def _read_json(path: Path) -> dict[str, Any]:
    """The header as JSON; empty if the file is not safetensors."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            content = json.loads(file.read(size)) if size <= MAX_HEADER_BYTES else None
    except OSError as error:
        raise WeightsError(f"cannot read weights {path}: {error.strerror}") from None
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
