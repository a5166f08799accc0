"""From a checkpoint to a network ready to predict.

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

import torch
from torch import Tensor

from model.checkpoints.detectron2 import from_detectron2, is_detectron2, parse_config
from model.checkpoints.files import Content, beside, parse, read_bytes, shown
from model.checkpoints.mmdetection import from_mmdetection, is_mmdetection, style_of
from model.checkpoints.published import PUBLISHED, fetch_published
from model.checkpoints.torchvision import modernise, preset_of
from model.errors import PresetError, WeightsError
from model.mask_rcnn import MaskRCNN
from model.preset import Preset

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
    target = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    dtype = PRECISIONS[resolve_precision(precision, target, compiled)]
    checkpoint = weights if isinstance(weights, Checkpoint) else read_checkpoint(weights)
    network = build(checkpoint, checkpoint.preset.replace(**overrides))
    return network.prepare(dtype, target, exact=precision == "fp32", compiled=compiled)


def build(checkpoint: Checkpoint, preset: Preset) -> MaskRCNN:
    """The network with the checkpoint's weights, float32, not yet prepared.

    Raises:
        WeightsError: keys are missing, unknown or of another shape; says how many, and names the first 20.
    """
    try:
        with torch.device("meta"):
            network = MaskRCNN(preset)
    except ValueError as error:  # such as groups that do not divide the channels
        raise WeightsError(f"the checkpoint's shapes make no network: {error}") from None
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
        lines = "\n  ".join(problems)
        raise WeightsError(f"the checkpoint does not fit a {preset.name}:\n  {lines}")
    zero = torch.tensor(0)
    network.load_state_dict({k: checkpoint.state.get(k, zero) for k in expected}, assign=True)
    return network.requires_grad_(False)


def resolve_precision(precision: str, device: torch.device, compiled: bool = False) -> str:
    """What "auto" means on a device; other names as they are.

    Raises:
        WeightsError: no such precision, or one that is not compiled, or no compiler.
    """
    if compiled and precision == "fp32":
        raise WeightsError("precision fp32 is torchvision's own arithmetic and is not compiled; use auto, bf16 or fp16")
    if compiled:
        _find_compiler()
    if precision in PRECISIONS:
        return precision
    if precision != "auto":
        raise WeightsError(f"precision {precision!r} is none of auto, {', '.join(PRECISIONS)}")
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device.type == "cpu" and _cpu_has_bf16() else "fp32"


def _find_compiler() -> None:
    """Raises `WeightsError` where `torch.compile` would find no C++ compiler."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise WeightsError("no C++ compiler to compile with; install g++, set CXX, or go without --compile") from None


def _cpu_has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 natively (AVX512_BF16 or AMX)."""
    return bool(torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_bf16_supported())


def _provenance(text: str, location: str) -> dict[str, Any]:
    try:
        provenance = json.loads(text)
    except json.JSONDecodeError:
        provenance = None
    if not isinstance(provenance, dict):
        raise WeightsError(f"{location}: its provenance is not a JSON object")
    return provenance
