"""Loads a checkpoint as a network that is ready to predict."""

from __future__ import annotations

import os
from typing import Any

import torch

from model.checkpoints.checkpoint import Checkpoint, read_checkpoint
from model.errors import WeightsError
from model.inference.precision import PRECISIONS, resolve_precision
from model.inference.prepare import prepare
from model.mask_rcnn import MaskRCNN
from model.preset import Preset


def load_model(
    weights: str | os.PathLike[str] | Checkpoint,
    *,
    precision: str = "auto",
    device: str = "auto",
    compiled: bool = False,
    **overrides: Any,
) -> MaskRCNN:
    """Returns a network that is ready to predict.

    Args:
        weights: a shipped name (`shipped_names()`), a path, a URI, or a checkpoint that has been read.
        precision: "fp32", "bf16", "fp16" or "auto". "fp32" is torchvision's arithmetic, on a CPU to the last
            digit. "auto" is bf16 on a GPU or CPU that computes in it, else fp16 on a GPU, else float32 with
            folded and fused layers.
        device: a torch device, or "auto": CUDA if there is a GPU.
        compiled: compile the dense part, see `model.inference.prepare.prepare`.
        overrides: fields of the preset, such as `min_size`, `max_size`, `min_score`, `max_detections`.

    Raises:
        WeightsError: the checkpoint cannot be read or does not fit the network.
        PresetError: an override is unknown or does not fit.
    """
    torch_device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    dtype = PRECISIONS[resolve_precision(precision, torch_device, compiled)]
    checkpoint = weights if isinstance(weights, Checkpoint) else read_checkpoint(weights)
    network = build_network(checkpoint, checkpoint.preset.replace(**overrides))
    return prepare(network, dtype, torch_device, exact=precision == "fp32", compiled=compiled)


def build_network(checkpoint: Checkpoint, preset: Preset) -> MaskRCNN:
    """Builds the network with the checkpoint's weights, in float32 and not yet prepared for inference.

    Raises:
        WeightsError: keys are missing, unknown or of another shape; the message names all of them.
    """
    try:
        with torch.device("meta"):
            network = MaskRCNN(preset)
    except ValueError as error:  # such as groups that do not divide the channels
        raise WeightsError(f"cannot build a network of the checkpoint's shapes: {error}") from None
    expected = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in checkpoint.state.items()}
    if problems := _differences(expected, found):
        lines = "\n  ".join(problems)
        raise WeightsError(f"the checkpoint does not fit a {preset.name}:\n  {lines}")
    zero = torch.tensor(0)  # of batch counters, which some checkpoints lack
    network.load_state_dict({k: checkpoint.state.get(k, zero) for k in expected}, assign=True)
    return network.requires_grad_(False)


def _differences(expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> list[str]:
    """Returns one line for each key that is missing, unknown or of another shape."""
    counters = {k for k in expected if k.endswith("num_batches_tracked")}
    return [
        *(f"missing {k} {expected[k]}" for k in sorted(expected.keys() - found.keys() - counters)),
        *(f"unknown {k} {found[k]}" for k in sorted(found.keys() - expected.keys())),
        *(
            f"{k} is {found[k]}, expected {expected[k]}"
            for k in sorted(expected.keys() & found.keys())
            if expected[k] != found[k]
        ),
    ]
