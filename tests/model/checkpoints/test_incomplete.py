"""Incomplete checkpoints of every family: errors name each key that is missing or has another shape."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from support.mmdetection import names
from torch import Tensor

from model import Checkpoint, MaskRCNN, Preset, WeightsError, read_checkpoint
from model.checkpoints.families.detectron2 import KEY_RULES as DETECTRON2_RULES
from model.checkpoints.families.detectron2 import from_detectron2
from model.checkpoints.families.key_mapping import KeyRule, rename_keys
from model.checkpoints.families.mmdetection import KEY_RULES as MMDETECTION_RULES
from model.checkpoints.families.mmdetection import from_mmdetection
from model.checkpoints.families.torchvision import infer_preset, rename_old_keys
from model.checkpoints.file_formats import parse_file
from model.load import build_network

State = dict[str, Tensor]
DETECTRON2 = Path(__file__).parents[2] / "data" / "detectron2" / "r50" / "model.pkl"
Convert = Callable[[State], tuple[State, Preset]]
Family = tuple[State, Convert, list[KeyRule]]
NETWORKS = cache(MaskRCNN)


def convert_torchvision(state: State) -> tuple[State, Preset]:
    state = rename_old_keys(state)
    return state, infer_preset(state)


def mmdetection_state(tiny: Preset) -> State:
    preset = tiny.replace(bottleneck=True, trunk_channels=(32, 48, 64, 96), trunk_widths=(8, 12, 16, 24))
    state = {names(k): v for k, v in MaskRCNN(preset).state_dict().items()}
    for kind in ("weight", "bias"):
        state[f"roi_head.bbox_head.fc_reg.{kind}"] = state[f"roi_head.bbox_head.fc_reg.{kind}"][4:]
        state[f"roi_head.mask_head.conv_logits.{kind}"] = state[f"roi_head.mask_head.conv_logits.{kind}"][1:]
    return state


@pytest.fixture(autouse=True)
def networks_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network whose shapes are compared with those of a checkpoint is built once for each preset."""
    monkeypatch.setattr("model.load.MaskRCNN", NETWORKS)


@pytest.fixture(params=["torchvision", "torchvision V2", "detectron2", "mmdetection"])
def family(request: pytest.FixtureRequest, tiny: Preset) -> Family:
    """A complete state dict under the family's names, its conversion, and its key rules."""
    if request.param == "torchvision":
        return MaskRCNN(tiny).state_dict(), convert_torchvision, []
    if request.param == "torchvision V2":
        design = {"fpn_norm": True, "mask_norm": True, "rpn_convs": 2, "box_convs": (32, 32), "box_layers": 1}
        return MaskRCNN(tiny.replace(**design, frozen_bn=False)).state_dict(), convert_torchvision, []
    if request.param == "mmdetection":
        return mmdetection_state(tiny), lambda state: from_mmdetection(state, {}, "m.pth"), MMDETECTION_RULES
    return (
        parse_file(DETECTRON2.read_bytes(), "model.pkl").state,
        lambda state: from_detectron2(state, None),
        DETECTRON2_RULES,
    )


def error_of(state: State, convert: Convert) -> str:
    def load() -> None:
        ours, preset = convert(state)
        build_network(Checkpoint(ours, preset, "", {}), preset)

    with pytest.raises(WeightsError) as error:
        load()
    return str(error.value)


def distinct_keys(state: State) -> list[str]:
    """Returns the keys without those that differ from another key only in the number of a block."""
    first = {re.sub(r"\d+", "#", k.replace("layer1.0.", "first.").replace("res2.0.", "first.")): k for k in state}
    return [k for k in first.values() if not k.endswith("num_batches_tracked")]


def test_any_one_key_that_is_missing_is_named(family: Family) -> None:
    state, convert, rules = family
    unnamed = []
    for key in distinct_keys(state):
        (ours,) = rename_keys({key: state[key]}, rules)
        if ours not in error_of({k: v for k, v in state.items() if k != key}, convert):
            unnamed.append(key)
    assert not unnamed


@pytest.mark.parametrize("shape", [(), (0, 0, 0, 0)])
def test_any_one_key_of_another_shape_is_a_weights_error(family: Family, shape: tuple[int, ...]) -> None:
    state, convert, _ = family
    for key in [k for k in distinct_keys(state) if state[k].shape != shape]:
        error_of(state | {key: torch.zeros(shape)}, convert)


def test_every_key_of_a_missing_mask_head_is_named(family: Family) -> None:
    """A Faster R-CNN has none."""
    state, convert, _ = family
    message = error_of({k: v for k, v in state.items() if "mask" not in k}, convert)
    for key in ("mask_fcn_logits.weight", "mask_fcn_logits.bias", "conv5_mask.weight", "mask_head.0.0.weight"):
        assert key in message


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("rpn.head.conv.weight", "rpn.head.conv.0.0.weight"),
        ("roi_heads.mask_head.mask_fcn1.bias", "roi_heads.mask_head.0.0.bias"),
        ("module.backbone.body.bn1.weight", "backbone.body.bn1.weight"),
    ],
)
def test_two_tensors_of_one_name(tiny: Preset, tmp_path: Path, one: str, other: str) -> None:
    state = MaskRCNN(tiny).state_dict()
    torch.save(state | {one: torch.ones(1)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=rf"w\.pth: .*both {re.escape(other)}"):
        read_checkpoint(tmp_path / "w.pth")
