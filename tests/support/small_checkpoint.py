"""A small checkpoint in torchvision's layout, and helpers that write and compare checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model import Checkpoint, Preset

State = dict[str, Tensor]

SHAPE = Preset(
    blocks=(1, 1, 2, 1),
    trunk_channels=(8, 12, 16, 24),
    trunk_widths=(8, 12, 16, 24),
    stem=4,
    bottleneck=False,
    fpn_channels=16,
    box_hidden=20,
    mask_channels=(12, 8),
    mask_hidden=6,
    category_ids=(1, 2, 3),
    categories=("class 1", "class 2", "class 3"),
)


def on_disk(content: Any, path: Path, **options: Any) -> str:
    torch.save(content, path, **options)
    return str(path)


def assert_holds(checkpoint: Checkpoint, state: State) -> None:
    assert checkpoint.state.keys() == state.keys()
    assert all(torch.equal(checkpoint.state[k], v) for k, v in state.items())
