"""Loads a checkpoint as a network that is ready to predict."""

from __future__ import annotations

import os
from typing import Any

import torch

from model.checkpoints.checkpoint import Checkpoint, read_checkpoint
from model.errors import WeightsError
from model.inference.precision import PRECISIONS, resolve_precision
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
