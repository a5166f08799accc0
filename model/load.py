"""From a checkpoint to a network ready to predict.

A checkpoint is a shipped name, a path, or a URI that fsspec can open. Our own files are safetensors
with the preset in the metadata; torchvision's state dicts are recognised by their keys. A file is only
ever read as tensors: pickles go through torch's weights-only loader.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from model.errors import PresetError, WeightsError
from model.mask_rcnn import MaskRCNN
from model.preset import Preset
from model.torchvision_layout import modernise, preset_of

SHIPPED = Path(__file__).parent / "weights"
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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


def read_checkpoint(weights: str | os.PathLike[str]) -> Checkpoint:
    """Reads a checkpoint's tensors and preset.

    Raises:
        WeightsError: there is none, it is no checkpoint, or of a layout this version does not know.
    """
    location = str(weights)
    data = _read_bytes(location)
    digest = hashlib.sha256(data).hexdigest()
    if data[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):  # a torch archive or a pickle
        state, preset_json, provenance = _read_torch(data, location), None, {}
    else:
        state, metadata = _read_safetensors(data, location)
        preset_json, provenance = metadata.get("preset"), _provenance(metadata.get("provenance", "{}"), location)
    try:
        state = modernise(state)
        preset = Preset.from_json(preset_json) if preset_json else preset_of(state)
    except (WeightsError, PresetError) as error:
        raise WeightsError(f"{location}: {error}") from None
    return Checkpoint(
        {k: v.float() if v.is_floating_point() else v for k, v in state.items()}, preset, digest, provenance
    )


def load_model(
    weights: str | os.PathLike[str] | Checkpoint,
    *,
    precision: str = "auto",
    device: str = "auto",
    compiled: bool = False,
    **overrides: Any,
) -> MaskRCNN:
    """A network ready to predict.

    Args:
        weights: a shipped name (`shipped_names()`), a path or a URI; or a checkpoint already read.
        precision: "fp32", "bf16", "fp16", or "auto": bf16 on a GPU or CPU that computes in it, else
            fp16 on a GPU, else float32 with folded and fused layers. "fp32" is torchvision's own arithmetic,
            to the last digit on a CPU.
        device: a torch device, or "auto": CUDA if there is one.
        compiled: compile the part with static shapes; see `MaskRCNN.prepare`.
        overrides: fields of the preset, such as `min_size`, `max_size`, `min_score`, `max_detections`.

    Raises:
        WeightsError: the checkpoint cannot be read or does not fit the network.
        PresetError: an override that does not exist or does not fit.
    """
    if compiled and precision == "fp32":
        raise WeightsError("precision fp32 is torchvision's own arithmetic and is not compiled; use auto, bf16 or fp16")
    checkpoint = weights if isinstance(weights, Checkpoint) else read_checkpoint(weights)
    target = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    network = build(checkpoint, checkpoint.preset.replace(**overrides))
    dtype = PRECISIONS[resolve_precision(precision, target)]
    return network.prepare(dtype, target, exact=precision == "fp32", compiled=compiled)


def build(checkpoint: Checkpoint, preset: Preset) -> MaskRCNN:
    """The network with the checkpoint's weights, float32, not yet prepared.

    Raises:
        WeightsError: keys are missing, unknown or of another shape; all are listed.
    """
    with torch.device("meta"):
        network = MaskRCNN(preset)
    expected = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in checkpoint.state.items()}
    counters = {k for k in expected if k.endswith("num_batches_tracked")}
    problems = [f"missing {k} {expected[k]}" for k in sorted(expected.keys() - found.keys() - counters)]
    problems += [f"unknown {k} {found[k]}" for k in sorted(found.keys() - expected.keys())]
    problems += [
        f"{k} is {found[k]}, expected {expected[k]}"
        for k in sorted(expected.keys() & found.keys())
        if expected[k] != found[k]
    ]
    if problems:
        lines = "\n  ".join(problems[:20] + ([f"and {len(problems) - 20} more"] if len(problems) > 20 else []))
        raise WeightsError(f"the checkpoint does not fit a {preset.name}:\n  {lines}")
    zero = torch.tensor(0)
    network.load_state_dict({k: checkpoint.state.get(k, zero) for k in expected}, assign=True)
    return network.requires_grad_(False)


def resolve_precision(precision: str, device: torch.device) -> str:
    """What "auto" means on a device; other names as they are.

    Raises:
        WeightsError: no such precision.
    """
    if precision in PRECISIONS:
        return precision
    if precision != "auto":
        raise WeightsError(f"precision {precision!r} is none of auto, {', '.join(PRECISIONS)}")
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device.type == "cpu" and _cpu_has_bf16() else "fp32"


def _cpu_has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 natively (AVX512_BF16 or AMX)."""
    return bool(torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_bf16_supported())


def _read_bytes(location: str) -> bytes:
    """The file's content."""
    if location in shipped_names():
        return (SHIPPED / f"{location}.safetensors").read_bytes()
    if "://" in location:
        import fsspec

        try:
            with fsspec.open(location, "rb") as file:
                return file.read()
        except Exception as error:  # every store has errors of its own
            shown = re.sub(r"//[^/@]*@", "//", location.split("?")[0])  # without a password or a signature
            raise WeightsError(f"cannot read weights {shown}: {type(error).__name__}") from None
    path = Path(location)
    if not path.is_file():
        names = ", ".join(shipped_names()) or "none"
        raise WeightsError(f"no weights named {location!r} and no such file; shipped: {names}")
    return path.read_bytes()


def _read_safetensors(data: bytes, location: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        state = safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError) as error:
        raise WeightsError(f"{location} is neither safetensors nor a torch checkpoint: {error}") from None
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return state, header.get("__metadata__", {})


def _provenance(text: str, location: str) -> dict[str, Any]:
    try:
        provenance = json.loads(text)
    except json.JSONDecodeError:
        provenance = None
    if not isinstance(provenance, dict):
        raise WeightsError(f"{location}: its provenance is not a JSON object")
    return provenance


def _read_torch(data: bytes, location: str) -> dict[str, Tensor]:
    """A state dict, bare or under the key that training scripts put it."""
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # on damaged input the loader fails in many ways
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise WeightsError(f"cannot read {location} as plain tensors: {reason}") from None
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise WeightsError(f"{location} holds no state dict (name -> tensor)")
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()):
        raise WeightsError(f"{location} holds more than a state dict (name -> tensor)")
    return {k.removeprefix("module."): v for k, v in content.items()}
