"""Writes checkpoints in our format: safetensors with the preset and the provenance in the metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from model.errors import WeightsError
from model.preset import Preset


def write_checkpoint(
    path: str | os.PathLike[str],
    state: Mapping[str, Tensor],
    preset: Preset,
    provenance: dict[str, Any],
    half: bool = True,
) -> None:
    """Writes a checkpoint.

    Args:
        path: the file to write.
        state: tensors under torchvision's names. Batch counters (`num_batches_tracked`) are left out.
        preset: architecture, conventions and classes.
        provenance: how the weights were made, as JSON values.
        half: store weights as float16. Statistics of batch normalisation stay float32, because a variance can
            be outside the range of float16.

    Raises:
        WeightsError: The file cannot be written.
    """
    tensors = {}
    for key, value in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        exact = not half or key.endswith(("running_mean", "running_var"))
        tensors[key] = value.detach().to(torch.float32 if exact else torch.float16).contiguous()
    metadata = {"preset": preset.to_json(), "provenance": json.dumps(provenance)}
    try:
        safetensors.torch.save_file(tensors, path, metadata=metadata)
    except (OSError, safetensors.SafetensorError) as error:
        raise WeightsError(f"cannot write {os.fspath(path)}: {error}") from None
