"""Checkpoints are read from files and URIs, and errors name the file."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import fsspec
import pytest
import safetensors.torch
import torch
from support.small_checkpoint import SHAPE, State, assert_holds, on_disk
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN

from model import MaskRCNN, Preset, WeightsError, load_model, read_checkpoint, shipped_names
from model.checkpoints import checkpoint as checkpoint_module
from model.checkpoints.families.family import CheckpointFamily, ConvertedCheckpoint, ForeignCheckpoint


def test_a_torch_file(small_state: State, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    checkpoint = read_checkpoint(on_disk(small_state, path))
    assert_holds(checkpoint, small_state)
    assert checkpoint.preset == SHAPE.replace(name=checkpoint.preset.name)
    assert checkpoint.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert checkpoint.provenance == {}
    assert_holds(read_checkpoint(path), small_state)  # a Path as well as a string
    network = load_model(checkpoint, precision="fp32", device="cpu")
    assert all(torch.equal(v, small_state[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_a_uri(small_state: State, tmp_path: Path, scheme: str) -> None:
    path = tmp_path / "weights.pth"
    torch.save(small_state, path)
    uri = path.as_uri() if scheme == "file" else "memory://models/weights.pth"
    if scheme == "memory":
        fsspec.filesystem("memory").pipe("/models/weights.pth", path.read_bytes())
    checkpoint = read_checkpoint(uri)
    assert_holds(checkpoint, small_state)
    assert checkpoint.digest == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("uri", ["memory://nothing/here.pth", "file:///nothing/here.pth", "nosuchstore://a/b.pth"])
def test_a_uri_that_cannot_be_read(uri: str) -> None:
    with pytest.raises(WeightsError, match=re.escape(uri)):
        read_checkpoint(uri)


def test_safetensors_with_a_preset(tiny: Preset, tiny_torchvision: TorchvisionMaskRCNN, pixels: Any, tmp_path: Path):
    state, path = tiny_torchvision.state_dict(), tmp_path / "tiny.safetensors"
    provenance = {"data": "none", "seed": 0}
    metadata = {"preset": tiny.to_json(), "provenance": json.dumps(provenance)}
    safetensors.torch.save_file(state, path, metadata=metadata)
    checkpoint = read_checkpoint(path)
    assert_holds(checkpoint, state)
    assert checkpoint.preset == tiny
    assert checkpoint.provenance == provenance
    assert checkpoint.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    found = load_model(path, precision="fp32", device="cpu").predict([pixels["small"]])[0]
    with torch.inference_mode():
        (expected,) = tiny_torchvision([torch.from_numpy(pixels["small"]).permute(2, 0, 1).float() / 255])
    assert len(expected["boxes"]) >= 10
    torch.testing.assert_close(found.boxes, expected["boxes"], rtol=0, atol=1e-3)


def test_safetensors_without_metadata_is_recognised_by_its_shapes(small_state: State, tmp_path: Path) -> None:
    path = tmp_path / "plain.safetensors"
    safetensors.torch.save_file(small_state, path)
    checkpoint = read_checkpoint(path)
    assert_holds(checkpoint, small_state)
    assert checkpoint.preset == SHAPE.replace(name=checkpoint.preset.name)


def test_the_papers_architecture_is_stored_in_the_preset(tmp_path: Path) -> None:
    paper = SHAPE.replace(
        rpn_levels=1, rpn_scores=2, anchor_sizes=[[32, 64, 128]], anchor_ratios=[[0.5, 1, 2]], name="paper"
    )
    path = tmp_path / "paper.safetensors"
    safetensors.torch.save_file(MaskRCNN(paper).state_dict(), path, metadata={"preset": paper.to_json()})
    network = load_model(path, precision="fp32", device="cpu")
    assert network.preset == paper
    assert network.rpn["head"].cls_logits.out_channels == 18


def test_half_precision_on_disk_is_float32_in_memory(small_state: State, tmp_path: Path) -> None:
    halves = {k: v.half() if v.is_floating_point() else v for k, v in small_state.items()}
    checkpoint = read_checkpoint(on_disk(halves, tmp_path / "w.pth"))
    assert_holds(checkpoint, {k: v.float() if v.is_floating_point() else v for k, v in halves.items()})
    assert {v.dtype for v in checkpoint.state.values()} == {torch.float32, torch.int64}


def test_no_such_file_lists_the_shipped_names() -> None:
    with pytest.raises(WeightsError, match="no-such-weights") as error:
        read_checkpoint("no-such-weights")
    assert "shipped: " + (", ".join(shipped_names()) or "none") in str(error.value)
    assert "published: coco, coco-v2" in str(error.value)


@pytest.mark.parametrize(
    "metadata", [{"preset": "{"}, {"preset": "[]"}, {"preset": '{"future": 1}'}, {"provenance": "{"}], ids=str
)
def test_safetensors_with_broken_metadata(small_state: State, tmp_path: Path, metadata: dict[str, str]) -> None:
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(small_state, path, metadata=metadata)
    with pytest.raises(WeightsError, match=r"w\.safetensors"):
        read_checkpoint(path)


def test_the_first_family_that_recognises_the_keys_converts_the_file(
    small_state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(file: ForeignCheckpoint) -> ConvertedCheckpoint:
        assert file.filename == "w.pth"
        state = {key.removeprefix("other."): value for key, value in file.state.items()}
        return ConvertedCheckpoint(state, SHAPE, {"imported_from": "other"})

    other = CheckpointFamily("other", lambda state: all(key.startswith("other.") for key in state), convert)
    monkeypatch.setattr(checkpoint_module, "FAMILIES", (other, *checkpoint_module.FAMILIES))
    theirs = {f"other.{key}": value for key, value in small_state.items()}
    checkpoint = read_checkpoint(on_disk(theirs, tmp_path / "w.pth"))
    assert_holds(checkpoint, small_state)
    assert checkpoint.provenance == {"imported_from": "other"}
    assert read_checkpoint(on_disk(small_state, tmp_path / "v.pth")).preset.family == "torchvision"
