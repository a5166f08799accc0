"""Parses the file formats of checkpoints: safetensors, PyTorch archives (new and legacy), and pickles of arrays.

A file is read only as tensors and plain values. Nothing in it is executed.
"""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from model.checkpoints.families.key_mapping import KeyRule, rename_keys
from model.checkpoints.unpickle import load_arrays
from model.errors import WeightsError

_ZIP_MAGIC, _PICKLE_MAGIC = b"PK", b"\x80"
_DATA_PARALLEL: KeyRule = (re.compile(r"^module\.(.+)$"), r"\1")  # PyTorch's DataParallel adds this prefix


@dataclass(frozen=True)
class ParsedFile:
    """The content of a checkpoint file.

    Attributes:
        state: tensors by their names in the file.
        metadata: the metadata of a safetensors file.
        training_metadata: what a training framework stored next to the tensors ("meta" of mmdetection).
    """

    state: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)
    training_metadata: dict[str, Any] = field(default_factory=dict)


def parse_file(data: bytes, location: str) -> ParsedFile:
    """Parses a checkpoint file. The first bytes decide the format.

    Args:
        data: content of the file.
        location: where it came from, for errors.

    Raises:
        WeightsError: The file has none of the formats, or is damaged.
    """
    if data[:2] == _ZIP_MAGIC:
        return _state_dict(_load_torch(data, location), location)
    if data[:1] == _PICKLE_MAGIC:
        try:
            content = load_arrays(data)
        except WeightsError as error:
            raise WeightsError(f"cannot read {location} as plain tensors: {error}") from None
        # The format of PyTorch before 1.6 is a series of pickles that begins with a number.
        return _state_dict(_load_torch(data, location) if isinstance(content, int) else content, location)
    try:
        state = safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError) as error:
        raise WeightsError(f"{location} is neither safetensors nor a torch checkpoint: {error}") from None
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return ParsedFile(state, header.get("__metadata__", {}))


def _load_torch(data: bytes, location: str) -> Any:
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise WeightsError(f"cannot read {location} as plain tensors: {reason}") from None


def _state_dict(content: Any, location: str) -> ParsedFile:
    """Finds the state dict: the object itself, or the value of a key that training scripts use."""
    meta = content.get("meta") if isinstance(content, dict) else None
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise WeightsError(f"{location} holds no state dict (name -> tensor)")
    tensors = {k: torch.from_numpy(v.copy()) if _is_numeric(v) else v for k, v in content.items()}
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in tensors.items()):
        raise WeightsError(f"{location} holds more than a state dict (name -> tensor)")
    try:
        state = rename_keys(tensors, [_DATA_PARALLEL])
    except WeightsError as error:
        raise WeightsError(f"{location}: {error}") from None
    return ParsedFile(state, training_metadata=meta if isinstance(meta, dict) else {})


def _is_numeric(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiub"
