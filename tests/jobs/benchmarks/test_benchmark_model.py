"""`maskfleet benchmark model` refuses weights that torchvision's network cannot hold."""

from __future__ import annotations

from pathlib import Path

import torch
from typer.testing import CliRunner

from jobs.main import app
from model import MaskRCNN
from model.training.architectures import SMALL


def test_weights_that_torchvisions_v1_cannot_hold_are_refused(tmp_path: Path) -> None:
    v2 = {"fpn_norm": True, "mask_norm": True, "rpn_convs": 2, "box_convs": (32, 32), "box_layers": 1}
    preset = SMALL.replace(**v2, category_ids=(1,), categories=("nucleus",))
    path = tmp_path / "v2.pth"
    torch.save(MaskRCNN(preset).state_dict(), path)
    result = CliRunner().invoke(app, ["benchmark", "model", "--weights", str(path), "--count", "1"])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {path}: ")
    assert "V1" in result.stderr
