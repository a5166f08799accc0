"""`maskfleet weights`: what is shipped and what is in a file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import fsspec
import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from jobs.weights import app
from model import MaskRCNN, Preset, read_checkpoint, shipped_names
from model.checkpoints.save import write_checkpoint

TINY = Preset(
    name="tiny",
    blocks=(1, 1, 1, 1),
    trunk_channels=(8, 8, 8, 8),
    trunk_widths=(8, 8, 8, 8),
    stem=8,
    bottleneck=False,
    fpn_channels=8,
    box_hidden=8,
    mask_channels=(8,),
    mask_hidden=8,
    category_ids=(1, 2, 3, 4, 9),
    categories=("cell", "[bold]nucleus", "debris", "fibre", "vessel"),
)
PROVENANCE = {"data": "plates.json", "val": {"segm": {"AP": 0.25}, "bbox": {"AP": None}}}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    torch.manual_seed(0)
    write_checkpoint(path, MaskRCNN(TINY).state_dict(), TINY, PROVENANCE)
    return path


def test_list_has_every_shipped_checkpoint() -> None:
    result = run("list", "--json")
    assert result.exit_code == 0
    shipped = json.loads(result.stdout)
    assert [s["name"] for s in shipped] == shipped_names()
    assert all(s["megabytes"] > 1 and s["classes"] for s in shipped)
    table = run("list")
    assert table.exit_code == 0
    assert all(name in table.stdout for name in shipped_names())


def test_show_as_json(checkpoint: Path) -> None:
    document = json.loads(run("show", checkpoint, "--json").stdout)
    assert document["name"] == str(checkpoint)
    assert document["network"] == "tiny"
    assert document["classes"] == list(TINY.categories)
    assert document["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert (document["mask_ap"], document["box_ap"]) == (0.25, None)
    assert document["parameters"] == sum(p.numel() for p in MaskRCNN(TINY).parameters())
    assert document["preset"]["max_detections"] == TINY.max_detections
    assert document["provenance"] == PROVENANCE


def test_show_on_the_terminal(checkpoint: Path) -> None:
    result = run("show", checkpoint)
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.stdout.split("\n")]
    assert "classes 5: cell, [bold]nucleus, debris, fibre, ..." in lines
    assert "max_detections 100" in lines
    assert "data plates.json" in lines
    assert "mask ap 0.25" in lines


def test_show_of_a_missing_checkpoint_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<html>sign in</html>")
    for weights in ("neclei", tmp_path / "page.html"):
        result = run("show", weights)
        assert result.exit_code == 1
        assert result.stderr.startswith("error: ")
        assert result.stdout == ""


DETECTRON2 = Path(__file__).parents[1] / "data" / "detectron2" / "x101" / "model.pkl"


def test_convert_loses_nothing(tmp_path: Path) -> None:
    target = tmp_path / "x101.safetensors"
    result = run("convert", DETECTRON2, target)
    assert result.exit_code == 0, result.output
    assert "detectron2" in result.output
    assert "config.yaml" in result.output
    source, converted = read_checkpoint(DETECTRON2), read_checkpoint(target)
    assert converted.preset == source.preset
    assert converted.provenance["source_sha256"] == source.digest
    assert source.state.keys() == converted.state.keys()
    assert all(torch.equal(source.state[k], converted.state[k]) for k in source.state)


def test_a_signature_is_neither_written_nor_shown(checkpoint: Path, tmp_path: Path) -> None:
    signed = "memory://models/tiny.safetensors?X-Amz-Signature=0f3a"
    fsspec.filesystem("memory").pipe(signed, checkpoint.read_bytes())
    target = tmp_path / "ours.safetensors"
    result = run("convert", signed, target)
    assert result.exit_code == 0, result.output
    assert read_checkpoint(target).provenance["source"] == "tiny.safetensors"
    assert b"0f3a" not in target.read_bytes()
    assert "0f3a" not in result.output


def test_convert_to_half_precision(tmp_path: Path) -> None:
    result = run("convert", DETECTRON2, tmp_path / "whole.safetensors", "--json")
    half = run("convert", DETECTRON2, tmp_path / "half.safetensors", "--half", "--json")
    assert json.loads(half.stdout)["megabytes"] < 0.6 * json.loads(result.stdout)["megabytes"]


def test_convert_only_writes_safetensors(tmp_path: Path) -> None:
    result = run("convert", DETECTRON2, tmp_path / "weights.pth")
    assert result.exit_code == 2
    assert "safetensors" in result.output


def test_convert_refuses_unknown_keys(tmp_path: Path) -> None:
    state = MaskRCNN(TINY).state_dict() | {"backbone.body.extra.weight": torch.ones(1)}
    torch.save(state, tmp_path / "w.pth")
    result = run("convert", tmp_path / "w.pth", tmp_path / "w.safetensors")
    assert result.exit_code == 1
    assert "backbone.body.extra.weight" in result.output
    assert not (tmp_path / "w.safetensors").exists()


def test_convert_replaces_a_file_only_if_asked(checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "w.safetensors"
    target.write_text("precious")
    refused = run("convert", checkpoint, target)
    assert refused.exit_code == 2
    assert "--overwrite" in refused.stderr
    assert target.read_text() == "precious"
    assert run("convert", checkpoint, target, "--overwrite").exit_code == 0
    assert read_checkpoint(target).preset == TINY


def test_convert_to_a_missing_folder_is_one_line(checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "nowhere" / "w.safetensors"
    result = run("convert", checkpoint, target)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: cannot write {target}: ")
    assert len(result.stderr.splitlines()) == 1
