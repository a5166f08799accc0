"""A checkpoint's file: its bytes, and what is in them, as tensors and plain values only."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from model.checkpoints.key_mapping import renamed
from model.checkpoints.unpickle import load_arrays
from model.errors import WeightsError

_ZIP, _PICKLE = b"PK", b"\x80"
_PARALLEL = re.compile(r"^module\.(.+)$"), r"\1"  # what PyTorch's data parallelism puts before a name


@dataclass(frozen=True)
class Content:
    """What a file holds.

    Attributes:
        state: tensors by the names they have in the file.
        metadata: of a safetensors file.
        meta: what a training framework wrote beside the tensors ("meta" of mmdetection).
    """

    state: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)


def read_bytes(location: str, storage: Mapping[str, Any] | None = None) -> bytes:
    """The bytes of a path or URI.

    Args:
        storage: fsspec's options for the store of a URI, beyond what the environment says.

    Raises:
        WeightsError: it cannot be read.
    """
    if "://" not in location:
        try:
            return Path(location).read_bytes()
        except OSError as error:
            raise WeightsError(f"cannot read weights {location}: {error.strerror}") from None
    if (found := _stored(location, storage)) is None:
        raise WeightsError(f"cannot read weights {shown(location)}: FileNotFoundError")
    return found


def _stored(location: str, storage: Mapping[str, Any] | None) -> bytes | None:
    """The bytes of a URI; None if there is no such object."""
    import fsspec

    try:
        with fsspec.open(location, "rb", **(storage or {})) as file:
            return file.read()
    except FileNotFoundError:
        return None
    except Exception as error:  # every store has errors of its own
        raise WeightsError(f"cannot read weights {shown(location)}: {type(error).__name__}") from None


def beside(location: str, names: list[str], storage: Mapping[str, Any] | None = None) -> tuple[str, bytes] | None:
    """The first of these files that lies in the same folder, with its content.

    Raises:
        WeightsError: whether one is there cannot be said, as its store does not answer, or not to us.
    """
    folder = location[: location.rfind("/") + 1] if "://" in location else str(Path(location).parent) + os.sep
    if "?" in location or location.startswith(("http:", "https:")):
        return None  # a web server may answer anything
    refused = None
    for name in names:
        if "://" not in location:
            if Path(folder + name).is_file():
                return name, read_bytes(folder + name)
            continue
        try:
            found = _stored(folder + name, storage)
        except WeightsError as error:  # without the right to list, a store says this of what is not there, too
            refused, found = error, None
        if found is not None:
            return name, found
    if refused:
        raise WeightsError(f"{refused}; if its store forbids it, copy the weights' folder to a disk") from None
    return None


def shown(location: str) -> str:
    """A location without a password or a signature."""
    return re.sub(r"//[^/@]*@", "//", location.split("?")[0])


def parse(data: bytes, location: str) -> Content:
    """What a checkpoint file holds; nothing in it is executed.

    Raises:
        WeightsError: it is none of safetensors, a torch archive, or a pickle of arrays; or is damaged.
    """
    if data[:2] == _ZIP:
        return _state(_torch(data, location), location)
    if data[:1] == _PICKLE:
        try:
            content = load_arrays(data)
        except WeightsError as error:
            raise WeightsError(f"cannot read {location} as plain tensors: {error}") from None
        # torch's format before 1.6 is a row of pickles that begins with a number.
        return _state(_torch(data, location) if isinstance(content, int) else content, location)
    try:
        state = safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError) as error:
        raise WeightsError(f"{location} is neither safetensors nor a torch checkpoint: {error}") from None
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return Content(state, header.get("__metadata__", {}))


def _torch(data: bytes, location: str) -> Any:
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # on damaged input the loader fails in many ways
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise WeightsError(f"cannot read {location} as plain tensors: {reason}") from None


def _state(content: Any, location: str) -> Content:
    """A state dict, bare or under the key that training scripts put it."""
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
        state = renamed(tensors, [_PARALLEL])
    except WeightsError as error:
        raise WeightsError(f"{location}: {error}") from None
    return Content(state, meta=meta if isinstance(meta, dict) else {})


def _is_numeric(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiub"
