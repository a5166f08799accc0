"""`load_model` fits a checkpoint to the network, names every key that does not fit, and applies overrides."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from support.small_checkpoint import SHAPE, State, on_disk

from model import Checkpoint, MaskRCNN, PresetError, WeightsError, load_model
from model.inference.precision import resolve_precision
from model.load import build_network


def checkpoint_of(state: State) -> Checkpoint:
    return Checkpoint(state, SHAPE, "", {})


def test_batch_counters_may_be_missing_if_the_file_has_a_preset(small_state: State, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    kept = {k: v for k, v in small_state.items() if "num_batches" not in k}
    safetensors.torch.save_file(kept, path, metadata={"preset": SHAPE.to_json()})
    network = load_model(path, precision="fp32", device="cpu")
    assert all(torch.equal(network.state_dict()[k], v) for k, v in kept.items())


def test_missing_unknown_and_misshapen_keys_are_all_named(small_state: State) -> None:
    missing = [
        "roi_heads.mask_predictor.mask_fcn_logits.bias",
        "backbone.body.layer3.1.bn1.weight",
        "rpn.head.conv.0.0.bias",
    ]
    shapes = {"rpn.head.bbox_pred.weight": (3, 16, 1, 1), "roi_heads.box_head.fc7.bias": (19,)}
    unknown = {"ema.decay": (1,), "backbone.body.layer1.5.conv1.weight": (8, 8, 3, 3)}
    broken = {k: v for k, v in small_state.items() if k not in missing}
    broken |= {k: torch.zeros(shape) for k, shape in (shapes | unknown).items()}
    with pytest.raises(WeightsError) as error:
        load_model(checkpoint_of(broken), device="cpu")
    message = str(error.value)
    lines = [line.strip() for line in message.splitlines()[1:]]
    assert len(lines) == 7
    for key in missing:
        assert f"missing {key} {tuple(small_state[key].shape)}" in lines
    for key, shape in unknown.items():
        assert f"unknown {key} {shape}" in lines
    for key, shape in shapes.items():
        assert f"{key} is {shape}, expected {tuple(small_state[key].shape)}" in lines


@pytest.fixture
def network_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network whose shapes are compared with those of a checkpoint is built once for each preset."""
    monkeypatch.setattr("model.load.MaskRCNN", cache(MaskRCNN))


@pytest.mark.usefixtures("network_built_once")
def test_any_one_key_that_is_missing_is_named(small_state: State) -> None:
    for key in small_state:
        if key.endswith("num_batches_tracked"):
            continue
        with pytest.raises(WeightsError, match=re.escape(key)):
            build_network(checkpoint_of({k: v for k, v in small_state.items() if k != key}), SHAPE)


@pytest.mark.slow
@pytest.mark.usefixtures("network_built_once")
def test_any_one_key_missing_from_a_torch_file_is_a_weights_error(small_state: State, tmp_path: Path) -> None:
    """The preset is inferred from the shapes, and the missing tensor may be one that this needs."""
    other = []
    for key in small_state:
        if key.endswith("num_batches_tracked"):
            continue
        path = on_disk({k: v for k, v in small_state.items() if k != key}, tmp_path / "w.pth")
        try:
            load_model(path, device="cpu")
            other.append(f"{key}: loaded")
        except WeightsError:
            pass
        except Exception as error:
            other.append(f"{key}: {type(error).__name__}: {error}")
    assert not other


def test_every_wrong_key_is_named_however_many_there_are(small_state: State) -> None:
    with pytest.raises(WeightsError) as error:
        build_network(checkpoint_of({"ema.decay": torch.zeros(1)}), SHAPE)
    lines = str(error.value).splitlines()
    for key in small_state:
        assert key.endswith("num_batches_tracked") or any(f"missing {key} " in line for line in lines)
    assert any("unknown ema.decay" in line for line in lines)


def test_overrides_reach_the_network(small_state: State) -> None:
    network = load_model(
        checkpoint_of(small_state), device="cpu", precision="fp32", min_size=333, min_score=0.7, nms=0.2
    )
    assert network.preset == SHAPE.replace(min_size=333, min_score=0.7, nms=0.2)


def test_an_unknown_override_is_named(small_state: State) -> None:
    with pytest.raises(PresetError, match="score_threshold"):
        load_model(checkpoint_of(small_state), device="cpu", score_threshold=0.7)


def test_an_override_that_the_weights_do_not_fit(small_state: State) -> None:
    with pytest.raises(WeightsError, match=r"roi_heads\.box_head\.fc7\.weight is \(20, 20\), expected \(64, 64\)"):
        load_model(checkpoint_of(small_state), device="cpu", box_hidden=64)


@pytest.mark.parametrize("precision", ["fp8", "float32", "", "BF16"])
def test_an_unknown_precision(small_state: State, precision: str) -> None:
    with pytest.raises(WeightsError, match="fp32, bf16, fp16"):
        load_model(checkpoint_of(small_state), device="cpu", precision=precision)


def test_precisions(small_state: State) -> None:
    for name, dtype in {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}.items():
        assert resolve_precision(name, torch.device("cpu")) == name
        network = load_model(checkpoint_of(small_state), device="cpu", precision=name)
        assert {p.dtype for p in network.parameters()} == {dtype}
    auto = load_model(checkpoint_of(small_state), device="cpu")
    assert auto.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}[resolve_precision("auto", torch.device("cpu"))]
    assert auto.device.type == "cpu"


def test_compiling_without_a_compiler() -> None:
    from torch._inductor import config  # takes seconds

    missing = config.patch({"cpp.cxx": (None, "/nowhere/g++")})
    with missing, pytest.raises(WeightsError, match=r"^no C\+\+ compiler") as error:
        resolve_precision("auto", torch.device("cpu"), compiled=True)
    assert len(str(error.value).splitlines()) == 1


def test_a_checkpoint_can_be_loaded_several_times(small_state: State) -> None:
    """Loading folds and converts tensors. The checkpoint itself must not change."""
    before = {k: v.clone() for k, v in small_state.items()}
    for precision in ("bf16", "fp16", "fp32"):
        network = load_model(checkpoint_of(small_state), device="cpu", precision=precision)
        network.predict([np.zeros((40, 40, 3), np.uint8)])
    assert all(torch.equal(v, before[k]) for k, v in small_state.items())
