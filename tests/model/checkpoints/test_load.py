"""Checkpoints: read from anywhere, recognised by their shapes, refused with a line that says why."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.misc import FrozenBatchNorm2d

from model import Checkpoint, MaskRCNN, Preset, PresetError, WeightsError, load_model, read_checkpoint, shipped_names
from model.checkpoints.torchvision import modernise, preset_of
from model.inference.precision import resolve_precision
from model.load import build

State = dict[str, Tensor]

# In torchvision's layout at its defaults (anchors, thresholds), so that the shapes alone tell the preset.
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


@pytest.fixture(scope="module")
def state() -> State:
    """A small state dict as torchvision would save it; its values are random."""
    torch.manual_seed(0)
    return {
        k: torch.rand(v.shape) * 0.1 if v.is_floating_point() else v for k, v in MaskRCNN(SHAPE).state_dict().items()
    }


def on_disk(content: Any, path: Path, **options: Any) -> str:
    torch.save(content, path, **options)
    return str(path)


def assert_holds(checkpoint: Checkpoint, state: State) -> None:
    assert checkpoint.state.keys() == state.keys()
    assert all(torch.equal(checkpoint.state[k], v) for k, v in state.items())


# --- shapes to preset


def torchvision_state(backbone: str, classes: int, norm: type[nn.Module] = nn.BatchNorm2d) -> State:
    """Names and shapes without values."""
    with torch.device("meta"):
        trunk = resnet_fpn_backbone(backbone_name=backbone, weights=None, norm_layer=norm)
        return TorchvisionMaskRCNN(trunk, classes).state_dict()


@pytest.mark.parametrize(
    ("backbone", "blocks", "bottleneck", "groups", "widths"),
    [
        ("resnet18", (2, 2, 2, 2), False, 1, (64, 128, 256, 512)),
        ("resnet34", (3, 4, 6, 3), False, 1, (64, 128, 256, 512)),
        ("resnet50", (3, 4, 6, 3), True, 1, (64, 128, 256, 512)),
        ("resnet101", (3, 4, 23, 3), True, 1, (64, 128, 256, 512)),
        ("resnet152", (3, 8, 36, 3), True, 1, (64, 128, 256, 512)),
        ("resnext50_32x4d", (3, 4, 6, 3), True, 32, (128, 256, 512, 1024)),
        ("resnext101_32x8d", (3, 4, 23, 3), True, 32, (256, 512, 1024, 2048)),
        ("wide_resnet50_2", (3, 4, 6, 3), True, 1, (128, 256, 512, 1024)),
    ],
)
def test_every_resnet_of_torchvision_is_recognised(
    backbone: str, blocks: tuple[int, ...], bottleneck: bool, groups: int, widths: tuple[int, ...]
) -> None:
    state = torchvision_state(backbone, 7)
    preset = preset_of(state)
    assert preset.blocks == blocks
    assert preset.bottleneck == bottleneck
    assert preset.groups == groups
    assert preset.trunk_widths == widths
    assert preset.trunk_channels == ((256, 512, 1024, 2048) if bottleneck else widths)
    assert (preset.stem, preset.fpn_channels, preset.box_hidden, preset.mask_hidden) == (64, 256, 1024, 256)
    assert preset.mask_channels == (256,) * 4
    assert preset.category_ids == (1, 2, 3, 4, 5, 6)
    assert not preset.frozen_bn
    assert preset.bn_eps == 1e-5
    build(Checkpoint(state, preset, "", {}), preset)  # every key and shape has its place, or it raises


def test_coco_checkpoints_have_coco_names() -> None:
    with torch.device("meta"):
        state = detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    preset = preset_of(state)
    assert preset == Preset(name=preset.name, category_ids=preset.category_ids, categories=preset.categories)
    assert preset.category_ids == tuple(range(1, 91))
    names = dict(zip(preset.category_ids, preset.categories, strict=True))
    known = {1: "person", 2: "bicycle", 13: "stop sign", 18: "dog", 44: "bottle", 62: "chair", 88: "teddy bear"}
    assert {i: names[i] for i in known} == known
    assert names[90] == "toothbrush"
    unused = {i for i, name in names.items() if name == "N/A"}
    assert unused == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # of COCO's 90 ids


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet101", "resnext50_32x4d", "wide_resnet50_2"])
def test_frozen_normalisation_has_torchvisions_epsilon(backbone: str) -> None:
    """FrozenBatchNorm2d is seen by its missing counters, and has the epsilon that torchvision gives it."""
    with torch.device("meta"):
        trunk = resnet_fpn_backbone(backbone_name=backbone, weights=None, norm_layer=FrozenBatchNorm2d)
        state = TorchvisionMaskRCNN(trunk, 5).state_dict()
    assert not [k for k in state if "num_batches" in k]
    (epsilon,) = {m.eps for m in trunk.modules() if isinstance(m, FrozenBatchNorm2d)}
    preset = preset_of(state)
    assert preset.frozen_bn
    assert preset.bn_eps == epsilon


def test_the_frozen_r50_is_torchvisions_own_of_epsilon_zero() -> None:
    """Where torchvision loads its COCO weights, which are R-50's alone, it sets the epsilon to zero."""
    preset = preset_of(torchvision_state("resnet50", 91, FrozenBatchNorm2d))
    assert preset.frozen_bn
    assert preset.bn_eps == 0.0


# --- files


def test_a_torch_file(state: State, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    checkpoint = read_checkpoint(on_disk(state, path))
    assert_holds(checkpoint, state)
    assert checkpoint.preset == SHAPE.replace(name=checkpoint.preset.name)
    assert checkpoint.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert checkpoint.provenance == {}
    assert_holds(read_checkpoint(path), state)  # a Path as well as a string
    network = load_model(checkpoint, precision="fp32", device="cpu")
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())


def test_the_legacy_torch_format(state: State, tmp_path: Path) -> None:
    assert_holds(read_checkpoint(on_disk(state, tmp_path / "w.pth", _use_new_zipfile_serialization=False)), state)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"model": s, "epoch": 12, "optimizer": {"lr": 0.1}},
        lambda s: {"state_dict": s},
        lambda s: {"module." + k: v for k, v in s.items()},
        lambda s: {"model": {"module." + k: v for k, v in s.items()}},
    ],
    ids=["model", "state_dict", "module", "both"],
)
def test_wrapped_as_training_scripts_do(state: State, tmp_path: Path, wrap: Callable[[State], Any]) -> None:
    assert_holds(read_checkpoint(on_disk(wrap(state), tmp_path / "w.pth")), state)


def older(state: State) -> State:
    """The names that torchvision wrote before it wrapped convolutions in blocks."""
    renamed = {}
    for key, value in state.items():
        key = re.sub(r"^(backbone\.fpn\.\w+_blocks\.\d)\.0\.", r"\1.", key)
        key = re.sub(r"^rpn\.head\.conv\.0\.0\.", "rpn.head.conv.", key)
        key = re.sub(
            r"^roi_heads\.mask_head\.(\d)\.0\.", lambda m: f"roi_heads.mask_head.mask_fcn{int(m[1]) + 1}.", key
        )
        renamed[key] = value
    return renamed


def test_older_names_mean_the_same(state: State, tmp_path: Path) -> None:
    old = older(state)
    for name in ("mask_head.mask_fcn1.weight", "mask_head.mask_fcn2.bias"):
        assert f"roi_heads.{name}" in old
    assert {"backbone.fpn.inner_blocks.0.weight", "backbone.fpn.layer_blocks.3.bias", "rpn.head.conv.weight"} <= set(
        old
    )
    assert_holds(read_checkpoint(on_disk(old, tmp_path / "w.pth")), state)


def test_torchvision_reads_the_older_names_so_too() -> None:
    """torchvision's own modules rename what they load; both ways must end in the same place."""
    torch.manual_seed(1)
    make = lambda: TorchvisionMaskRCNN(resnet_fpn_backbone(backbone_name="resnet18", weights=None), 3)  # noqa: E731
    old, network = older(make().state_dict()), make()
    network.load_state_dict(old)
    expected, found = network.state_dict(), modernise(old)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[k], v) for k, v in expected.items())


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_a_uri(state: State, tmp_path: Path, scheme: str) -> None:
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    uri = path.as_uri() if scheme == "file" else "memory://models/weights.pth"
    if scheme == "memory":
        fsspec.filesystem("memory").pipe("/models/weights.pth", path.read_bytes())
    checkpoint = read_checkpoint(uri)
    assert_holds(checkpoint, state)
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


def test_safetensors_without_metadata_is_known_by_its_shapes(state: State, tmp_path: Path) -> None:
    path = tmp_path / "plain.safetensors"
    safetensors.torch.save_file(state, path)
    checkpoint = read_checkpoint(path)
    assert_holds(checkpoint, state)
    assert checkpoint.preset == SHAPE.replace(name=checkpoint.preset.name)


def test_the_papers_design_travels_in_its_preset(tmp_path: Path) -> None:
    paper = SHAPE.replace(
        rpn_levels=1, rpn_scores=2, anchor_sizes=[[32, 64, 128]], anchor_ratios=[[0.5, 1, 2]], name="paper"
    )
    path = tmp_path / "paper.safetensors"
    safetensors.torch.save_file(MaskRCNN(paper).state_dict(), path, metadata={"preset": paper.to_json()})
    network = load_model(path, precision="fp32", device="cpu")
    assert network.preset == paper
    assert network.rpn["head"].cls_logits.out_channels == 18


def test_half_precision_on_disk_is_float32_in_memory(state: State, tmp_path: Path) -> None:
    halves = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    checkpoint = read_checkpoint(on_disk(halves, tmp_path / "w.pth"))
    assert_holds(checkpoint, {k: v.float() if v.is_floating_point() else v for k, v in halves.items()})
    assert {v.dtype for v in checkpoint.state.values()} == {torch.float32, torch.int64}


def test_counters_of_batches_may_be_missing_where_the_preset_is_known(state: State, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    kept = {k: v for k, v in state.items() if "num_batches" not in k}
    safetensors.torch.save_file(kept, path, metadata={"preset": SHAPE.to_json()})
    network = load_model(path, precision="fp32", device="cpu")
    assert all(torch.equal(network.state_dict()[k], v) for k, v in kept.items())


# --- errors


def test_no_such_file_lists_the_shipped_names() -> None:
    with pytest.raises(WeightsError, match="no-such-weights") as error:
        read_checkpoint("no-such-weights")
    assert "shipped: " + (", ".join(shipped_names()) or "none") in str(error.value)
    assert "published: coco, coco-v2" in str(error.value)


def fitting_preset(state: State) -> Checkpoint:
    return Checkpoint(state, SHAPE, "", {})


def test_missing_unknown_and_misshapen_keys_are_all_named(state: State) -> None:
    missing = [
        "roi_heads.mask_predictor.mask_fcn_logits.bias",
        "backbone.body.layer3.1.bn1.weight",
        "rpn.head.conv.0.0.bias",
    ]
    shapes = {"rpn.head.bbox_pred.weight": (3, 16, 1, 1), "roi_heads.box_head.fc7.bias": (19,)}
    unknown = {"ema.decay": (1,), "backbone.body.layer1.5.conv1.weight": (8, 8, 3, 3)}
    broken = {k: v for k, v in state.items() if k not in missing}
    broken |= {k: torch.zeros(shape) for k, shape in (shapes | unknown).items()}
    with pytest.raises(WeightsError) as error:
        load_model(fitting_preset(broken), device="cpu")
    message = str(error.value)
    lines = [line.strip() for line in message.splitlines()[1:]]
    assert len(lines) == 7
    for key in missing:
        assert f"missing {key} {tuple(state[key].shape)}" in lines
    for key, shape in unknown.items():
        assert f"unknown {key} {shape}" in lines
    for key, shape in shapes.items():
        assert f"{key} is {shape}, expected {tuple(state[key].shape)}" in lines


def test_any_one_key_that_is_missing_is_named(state: State) -> None:
    for key in state:
        if key.endswith("num_batches_tracked"):
            continue
        with pytest.raises(WeightsError, match=re.escape(key)):
            build(fitting_preset({k: v for k, v in state.items() if k != key}), SHAPE)


def test_any_one_key_missing_from_a_torch_file_is_a_weights_error(state: State, tmp_path: Path) -> None:
    """Here the preset is read off the shapes, and the shape that is missing may be one that it needs."""
    other = []
    for key in state:
        if key.endswith("num_batches_tracked"):
            continue
        path = on_disk({k: v for k, v in state.items() if k != key}, tmp_path / "w.pth")
        try:
            load_model(path, device="cpu")
            other.append(f"{key}: loaded")
        except WeightsError:
            pass
        except Exception as error:
            other.append(f"{key}: {type(error).__name__}: {error}")
    assert not other


def test_however_many_keys_are_wrong_each_is_named(state: State) -> None:
    with pytest.raises(WeightsError) as error:
        build(fitting_preset({"ema.decay": torch.zeros(1)}), SHAPE)
    lines = str(error.value).splitlines()
    for key in state:
        assert key.endswith("num_batches_tracked") or any(f"missing {key} " in line for line in lines)
    assert any("unknown ema.decay" in line for line in lines)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (detection.fasterrcnn_resnet50_fpn, "mask"),
        (detection.keypointrcnn_resnet50_fpn, "mask"),
        (detection.retinanet_resnet50_fpn, "not a whole Mask R-CNN"),
        (detection.fasterrcnn_mobilenet_v3_large_fpn, "not a whole Mask R-CNN"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_other_designs_of_torchvision_are_refused_by_name(make: Callable[..., nn.Module], named: str) -> None:
    with torch.device("meta"):
        state = make(weights=None, weights_backbone=None).state_dict()
    with pytest.raises(WeightsError, match=named):
        preset_of(modernise(state))


class Harmful:
    """Unpickling it makes a folder: what a pickle from the internet could do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    path, folder = tmp_path / "harmful.pkl", tmp_path / "ran"
    path.write_bytes(pickle.dumps({"model": Harmful(folder)}, protocol))
    with pytest.raises(WeightsError, match="harmful"):
        read_checkpoint(path)
    assert not folder.exists()
    pickle.loads(path.read_bytes())  # it would have
    assert folder.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_with_code_is_refused_and_not_run(state: State, tmp_path: Path, zipped: bool) -> None:
    path, folder = tmp_path / "harmful.pth", tmp_path / "ran"
    torch.save(state | {"extra": Harmful(folder)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match="harmful"):
        read_checkpoint(path)
    assert not folder.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\0" * 1000,
        b"\xff" * 1000,
        b"<!DOCTYPE html><title>404 Not Found</title>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 178090079\n",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"PK\x03\x04" + bytes(100),
        b"PK",
        b"\x80\x02",
        b"\x80\x04" + bytes(range(256)),
        b"\x80\x02}q\x00.",  # an empty dict
        b"\x80\x02]q\x00.",  # an empty list
        b"\x80\x02K\x05.",  # 5
        (100).to_bytes(8, "little") + b"{" * 100,
        (2).to_bytes(8, "little") + b"{}",
        np.random.default_rng(0).bytes(5000),
    ],
    ids=repr,
)
def test_garbage(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "garbage.bin"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"garbage\.bin"):
        read_checkpoint(path)


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_a_truncated_file(state: State, tmp_path: Path, form: str) -> None:
    """Cut anywhere, the download that broke is an error, and names the file."""
    whole, cut = tmp_path / "whole", tmp_path / "cut.bin"
    if form == "safetensors":
        safetensors.torch.save_file(state, whole, metadata={"preset": SHAPE.to_json()})
    else:
        torch.save(state, whole, _use_new_zipfile_serialization=form == "zip")
    data = whole.read_bytes()
    other = []
    for end in [1, 2, 9, 100, 1000, *(len(data) * i // 20 for i in range(1, 20)), len(data) - 1]:
        cut.write_bytes(data[:end])
        try:
            read_checkpoint(cut)
            other.append(f"{end} of {len(data)} bytes: read")
        except WeightsError as error:
            assert "cut.bin" in str(error)
        except Exception as error:
            other.append(f"{end} of {len(data)} bytes: {type(error).__name__}: {error}")
    assert not other


@pytest.mark.parametrize(
    "content",
    [{}, [], {"epoch": 3}, {"model": {"epoch": 3}}, {"model": {}}, torch.zeros(3), {1: torch.zeros(3)}],
    ids=repr,
)
def test_a_torch_file_without_a_state_dict(content: Any, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"w\.pth"):
        read_checkpoint(on_disk(content, tmp_path / "w.pth"))


@pytest.mark.parametrize(
    "metadata", [{"preset": "{"}, {"preset": "[]"}, {"preset": '{"future": 1}'}, {"provenance": "{"}], ids=str
)
def test_safetensors_with_broken_metadata(state: State, tmp_path: Path, metadata: dict[str, str]) -> None:
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(state, path, metadata=metadata)
    with pytest.raises(WeightsError, match=r"w\.safetensors"):
        read_checkpoint(path)


# --- options


def test_overrides_reach_the_network(state: State) -> None:
    network = load_model(fitting_preset(state), device="cpu", precision="fp32", min_size=333, min_score=0.7, nms=0.2)
    assert network.preset == SHAPE.replace(min_size=333, min_score=0.7, nms=0.2)


def test_an_unknown_override_is_named(state: State) -> None:
    with pytest.raises(PresetError, match="score_threshold"):
        load_model(fitting_preset(state), device="cpu", score_threshold=0.7)


def test_an_override_that_the_weights_do_not_fit(state: State) -> None:
    with pytest.raises(WeightsError, match=r"roi_heads\.box_head\.fc7\.weight is \(20, 20\), expected \(64, 64\)"):
        load_model(fitting_preset(state), device="cpu", box_hidden=64)


@pytest.mark.parametrize("precision", ["fp8", "float32", "", "BF16"])
def test_an_unknown_precision(state: State, precision: str) -> None:
    with pytest.raises(WeightsError, match="fp32, bf16, fp16"):
        load_model(fitting_preset(state), device="cpu", precision=precision)


def test_precisions(state: State) -> None:
    for name, dtype in {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}.items():
        assert resolve_precision(name, torch.device("cpu")) == name
        network = load_model(fitting_preset(state), device="cpu", precision=name)
        assert {p.dtype for p in network.parameters()} == {dtype}
    auto = load_model(fitting_preset(state), device="cpu")
    assert auto.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}[resolve_precision("auto", torch.device("cpu"))]
    assert auto.device.type == "cpu"


def test_compiling_without_a_compiler() -> None:
    code = (
        "import torch; from model import WeightsError; from model.inference.precision import resolve_precision\n"
        "try: resolve_precision('auto', torch.device('cpu'), compiled=True)\n"
        "except WeightsError as error: print(error)"
    )
    nothing = os.environ | {"PATH": "/nowhere", "CXX": "/nowhere/g++"}
    done = subprocess.run([sys.executable, "-c", code], env=nothing, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("no C++ compiler")
    assert len(done.stdout.splitlines()) == 1


def test_a_checkpoint_serves_more_than_once(state: State) -> None:
    """Loading folds and converts; the checkpoint that was read must stay as it was."""
    before = {k: v.clone() for k, v in state.items()}
    for precision in ("bf16", "fp16", "fp32"):
        network = load_model(fitting_preset(state), device="cpu", precision=precision)
        network.predict([np.zeros((40, 40, 3), np.uint8)])
    assert all(torch.equal(v, before[k]) for k, v in state.items())
