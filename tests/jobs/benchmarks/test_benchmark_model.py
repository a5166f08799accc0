"""`maskfleet benchmark model`: both sides must be the same network."""

from __future__ import annotations

from pathlib import Path

import torch
from torchvision.models.detection import maskrcnn_resnet50_fpn_v2
from typer.testing import CliRunner

from jobs.main import app


def test_weights_that_torchvisions_v1_cannot_hold_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "v2.pth"
    torch.save(maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None).state_dict(), path)
    result = CliRunner().invoke(app, ["benchmark", "model", "--weights", str(path), "--count", "1"])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {path}: ")
    assert "V1" in result.stderr
