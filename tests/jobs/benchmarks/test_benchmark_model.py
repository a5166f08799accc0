"""`maskfleet benchmark model` measures both sides, and refuses weights that torchvision's network cannot hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from jobs.benchmarks import model_sides
from jobs.main import app
from model import MaskRCNN
from model.training.architectures import SMALL


@pytest.mark.slow
def test_both_sides_are_measured(small_input_weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_sides, "MATRIX_SIDE", 64)
    arguments = ["--weights", small_input_weights, "--count", "1", "--rounds", "1", "--size", "120x160", "--json"]
    done = CliRunner().invoke(app, ["benchmark", "model", *arguments])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert list(report["sides"]) == ["torchvision fp32", "maskfleet auto"]
    assert list(report["stages"]) == ["input", "dense", "proposals", "boxes", "masks", "rle"]
    assert report["arithmetic"]["forward_gflop"] > 0
    assert report["sources"] == ["120x160"]


def test_weights_that_torchvisions_v1_cannot_hold_are_refused(tmp_path: Path) -> None:
    v2 = {"fpn_norm": True, "mask_norm": True, "rpn_convs": 2, "box_convs": (32, 32), "box_layers": 1}
    preset = SMALL.replace(**v2, category_ids=(1,), categories=("nucleus",))
    path = tmp_path / "v2.pth"
    torch.save(MaskRCNN(preset).state_dict(), path)
    result = CliRunner().invoke(app, ["benchmark", "model", "--weights", str(path), "--count", "1"])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {path}: ")
    assert "V1" in result.stderr
