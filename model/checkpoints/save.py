"""Writing a checkpoint of our own: safetensors, with the preset and the provenance in its metadata."""

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
    """Writes tensors, in half precision if asked, except statistics of batch normalisation.

    A variance can be smaller or larger than float16 holds; a weight that matters is neither.

    Args:
        state: by torchvision's names; counters of batches are left out.
        provenance: how the weights were made; must be JSON.

    Raises:
        WeightsError: the file cannot be written.
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
