"""`maskfleet train` writes checkpoints that the network loads, and the shipped weights have a good AP."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from jobs.main import app
from jobs.sample import DATA
from jobs.train import validate
from model import load_model, read_checkpoint


def train(to: Path, *options: str) -> tuple[int, str, str]:
    """Runs the command in this process. Returns its exit status, stdout and stderr."""
    done = CliRunner().invoke(app, ["train", str(DATA / "annotations.json"), str(DATA / "images"), str(to), *options])
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.slow
def test_command_writes_a_checkpoint(tmp_path: Path) -> None:
    to = tmp_path / "cells.safetensors"
    status, stdout, stderr = train(to, "--steps", "4", "--batch", "1", "--crop", "96", "--min-size", "128", "--json")
    assert status == 0, stderr
    assert json.loads(stdout)["bytes"] == to.stat().st_size
    checkpoint = read_checkpoint(to)
    assert checkpoint.preset.categories == ("nucleus",)
    assert checkpoint.provenance["done"]["steps"] == 4
    assert len(checkpoint.provenance["data_sha256"]) == 64
    assert to.stat().st_size < 12_000_000
    assert not to.with_suffix(".training").exists()


def test_command_trains_an_rpn_on_the_finest_level(tmp_path: Path) -> None:
    to = tmp_path / "cells.safetensors"
    options = ["--steps", "1", "--batch", "1", "--crop", "64", "--min-size", "64"]
    status, _, stderr = train(to, *options, "--finest-anchors", "16,40,100", "--from", "nuclei")
    assert status == 0, stderr
    preset = read_checkpoint(to).preset
    assert (preset.rpn_levels, preset.anchors_per_location, preset.rpn_scores) == (1, 9, 2)
    assert preset.anchor_sizes[0] == (16, 40, 100)
    load_model(to, device="cpu").predict([np.zeros((64, 64, 3), np.uint8)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--trunk", "vgg"), "no trunk 'vgg'"), (("--finest-anchors", "16;40"), "not a list of sizes")],
)
def test_architectures_that_do_not_exist(arguments: tuple[str, str], message: str, tmp_path: Path) -> None:
    status, _, stderr = train(tmp_path / "x.safetensors", *arguments)
    assert status == 2
    assert message in " ".join(stderr.split())


@pytest.mark.slow
def test_shipped_weights_find_nuclei(tmp_path: Path) -> None:
    """The AP is well above what a broken pipeline reaches. BENCHMARKS.md has the exact figure."""
    dataset = json.loads((DATA / "annotations.json").read_text())
    dataset["images"] = dataset["images"][1:5]  # from 7 to 78 nuclei
    chosen = {r["id"] for r in dataset["images"]}
    dataset["annotations"] = [a for a in dataset["annotations"] if a["image_id"] in chosen]
    (tmp_path / "some.json").write_text(json.dumps(dataset))
    figures = validate("nuclei", tmp_path / "some.json", DATA / "images")
    assert figures["segm"]["AP"] > 0.3
