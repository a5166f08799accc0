"""detectron2's checkpoints: our detections equal detectron2's, which are stored with their configs."""

from __future__ import annotations

import collections
import functools
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
import yaml
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco

from model import Detections, MaskRCNN, Preset, WeightsError, load_model, read_checkpoint, rle
from model.checkpoints.families.coco_categories import COCO_CLASSES
from model.checkpoints.families.detectron2 import from_detectron2
from model.checkpoints.file_formats import parse_file
from model.layers.rpn import propose
from model.layers.transform import resized_size, to_input

DATA = Path(__file__).parents[3] / "data" / "detectron2"
SIZES = {"000000062554": (800, 1333), "000000099053": (320, 533), "000000377575": (320, 400)}
CASES = [(case, image) for case in ("r50", "x101") for image in SIZES if (DATA / case / f"{image}.npz").exists()]


def pixels_of(image: str) -> np.ndarray:
    return np.array(Image.open(DATA / f"{image}.jpg").convert("RGB"))


@functools.cache
def network_for(case: str, image: str) -> MaskRCNN:
    min_size, max_size = SIZES[image]
    path = DATA / case / "model.pkl"
    return load_model(path, precision="fp32", device="cpu", min_size=min_size, max_size=max_size)


@functools.cache
def predicted(case: str, image: str) -> Detections:
    return network_for(case, image).predict([pixels_of(image)])[0]


@pytest.mark.parametrize(("case", "image"), CASES)
def test_detections_are_detectron2s(case: str, image: str) -> None:
    found, expected = predicted(case, image), np.load(DATA / case / f"{image}.npz")
    assert np.array_equal(found.labels.numpy() - 1, expected["det_classes"])
    np.testing.assert_allclose(found.boxes.numpy(), expected["det_boxes"], rtol=0, atol=0.05)
    np.testing.assert_allclose(found.scores.numpy(), expected["det_scores"], rtol=0, atol=1e-3)
    np.testing.assert_allclose(found.masks.numpy(), expected["mask_probs"], rtol=0, atol=3e-3)


@pytest.mark.parametrize(("case", "image"), CASES)
def test_rle_is_detectron2s_to_the_byte(case: str, image: str) -> None:
    """The RLE of detectron2's boxes and masks is equal. The RLE of our own differs in at most 20 pixels."""
    stored = json.loads((DATA / case / f"{image}.masks.json").read_text())
    expected = [d["segmentation"]["counts"] for d in stored["detections"]]
    height, width = stored["height"], stored["width"]
    given = np.load(DATA / case / f"{image}.npz")
    assert rle.encode(given["mask_probs"], given["det_boxes"], height, width, paste="detectron2") == expected

    found = predicted(case, image)
    encoded = rle.encode(found.masks, found.boxes, height, width, paste="detectron2")
    for ours, theirs in zip(encoded, expected, strict=True):
        a, b = (coco.decode({"size": [height, width], "counts": c}) for c in (ours, theirs))
        assert (a != b).sum() <= 20


@pytest.mark.parametrize(("case", "image"), CASES)
def test_proposals_are_detectron2s(case: str, image: str) -> None:
    """Both sides have as many, and each has one on the other side within 0.05 px of the resized image."""
    network, pixels = network_for(case, image), torch.from_numpy(pixels_of(image))
    expected = np.load(DATA / case / f"{image}.npz")
    size = tuple(expected["resized_hw"].tolist())
    with torch.inference_mode():
        batch = to_input([pixels], [size], network.preset, network.device, network.exact)
        features, objectness, deltas = network.dense(batch)
        grids = [(f.shape[2], f.shape[3]) for f in features]
        found = propose(network.preset, objectness, deltas, grids, batch.shape[2:], torch.tensor([size]))[:, 1:]
    theirs = torch.from_numpy(expected["proposal_boxes"])
    assert len(found) == len(theirs)
    distances = torch.cdist(found, theirs, p=torch.inf)
    assert distances.amin(0).max() < 0.05
    assert distances.amin(1).max() < 0.05


def checkpoint(folder: Path, case: str = "r50") -> Path:
    folder.mkdir(exist_ok=True)
    for name in ("model.pkl", "config.yaml"):
        shutil.copy(DATA / case / name, folder)
    return folder / "model.pkl"


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return pickle.loads((DATA / "r50" / "model.pkl").read_bytes())["model"]


@pytest.mark.parametrize("form", ["pth", "legacy pth", "old pickle", "bare"])
def test_other_files_of_the_same_weights(arrays: dict[str, np.ndarray], tmp_path: Path, form: str) -> None:
    state = collections.OrderedDict((k, torch.from_numpy(v)) for k, v in arrays.items())
    path = tmp_path / "weights.pkl"
    if form == "old pickle":  # with keys that detectron2 wrote until 2020, and NumPy's old module name
        extra = {"pixel_mean": np.ones((3, 1, 1)), "proposal_generator.anchor_generator.cell_anchors.0": np.ones(4)}
        content = pickle.dumps({"model": arrays | extra, "__author__": "someone"}, protocol=2)
        path.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    elif form == "bare":
        path.write_bytes(pickle.dumps(arrays))
    else:
        torch.save({"model": state}, path, _use_new_zipfile_serialization=form == "pth")
    ours, expected = read_checkpoint(path), read_checkpoint(DATA / "r50" / "model.pkl")
    assert ours.state.keys() == expected.state.keys()
    assert all(torch.equal(ours.state[k], expected.state[k]) for k in ours.state)
    assert "zoo" in ours.provenance["note"]
    assert "config.yaml" in expected.provenance["note"]


def test_coco_has_its_own_class_ids() -> None:
    preset = read_checkpoint(DATA / "r50" / "model.pkl").preset
    assert dict(zip(preset.category_ids, preset.categories, strict=True)) == COCO_CLASSES
    assert (preset.category_ids[0], preset.categories[0]) == (1, "person")
    assert (preset.category_ids[-1], preset.categories[-1]) == (90, "toothbrush")
    assert len(COCO_CLASSES) == 80
    assert read_checkpoint(DATA / "x101" / "model.pkl").preset.category_ids == (1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("path", "value", "field", "expected"),
    [
        ("MODEL.RESNETS.STRIDE_IN_1X1", False, "stride_on_1x1", False),
        ("MODEL.PIXEL_STD", [57.375, 57.12, 58.395], "std", (58.395 / 255, 57.12 / 255, 57.375 / 255)),
        (
            "MODEL.ANCHOR_GENERATOR.SIZES",
            [[8], [16], [32], [64], [128]],
            "anchor_sizes",
            tuple((2.0**i,) for i in range(3, 8)),
        ),
        ("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[0.3, 1, 3]], "anchor_ratios", ((0.3, 1.0, 3.0),) * 5),
        ("MODEL.RPN.NMS_THRESH", 0.6, "rpn_nms", 0.6),
        ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.2, "min_score", 0.2),
        ("TEST.DETECTIONS_PER_IMAGE", 7, "max_detections", 7),
        ("INPUT.MIN_SIZE_TEST", 512, "min_size", 512),
    ],
)
def test_the_config_next_to_the_weights_is_applied(
    tmp_path: Path, path: str, value: Any, field: str, expected: Any
) -> None:
    weights = checkpoint(tmp_path)
    edit(weights.with_name("config.yaml"), path, value)
    np.testing.assert_allclose(getattr(read_checkpoint(weights).preset, field), expected)


def test_a_config_may_have_one_pixel_statistic_only(tmp_path: Path) -> None:
    weights = checkpoint(tmp_path)
    for option, field in (("PIXEL_MEAN", "mean"), ("PIXEL_STD", "std")):
        weights.with_name("config.yaml").write_text(f"MODEL: {{{option}: [1.0, 2.0, 3.0]}}")
        found = read_checkpoint(weights).preset
        assert getattr(found, field) == (3 / 255, 2 / 255, 1 / 255)
        other = "std" if field == "mean" else "mean"
        assert getattr(found, other) == getattr(
            from_detectron2(parse_file(weights.read_bytes(), "").state, None)[1], other
        )


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([(800, 1333), (320, 533), (640, 640), (512, 2000)]))
def test_sizes_are_detectron2s(height: int, width: int, limits: tuple[int, int]) -> None:
    """detectron2 scales the shorter side to MIN_SIZE_TEST, then both sides down to MAX_SIZE_TEST, then rounds."""
    preset = Preset(min_size=limits[0], max_size=limits[1], resize_rounding="detectron2")
    factor = limits[0] * 1.0 / min(height, width)
    new = [limits[0] * 1.0, factor * width] if height < width else [factor * height, limits[0] * 1.0]
    if max(new) > limits[1]:
        factor = limits[1] * 1.0 / max(new)
        new = [new[0] * factor, new[1] * factor]
    assert resized_size(height, width, preset) == tuple(max(1, int(side + 0.5)) for side in new)


def test_a_size_that_needs_both_scaling_steps() -> None:
    assert resized_size(330, 860, Preset(resize_rounding="nearest")) == (512, 1333)
    assert resized_size(330, 860, read_checkpoint(DATA / "r50" / "model.pkl").preset) == (511, 1333)


def edit(file: Path, path: str, value: Any) -> None:
    config = yaml.safe_load(file.read_text())
    *above, last = path.split(".")
    node = config
    for key in above:
        node = node[key]
    node[last] = value
    file.write_text(yaml.safe_dump(config))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("MODEL.META_ARCHITECTURE", "RetinaNet"),
        ("MODEL.ROI_HEADS.NAME", "CascadeROIHeads"),
        ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
        ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, True, True, True]),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[32, 64]] * 5),
        ("INPUT.FORMAT", "RGB"),
        ("MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO", 2),
        ("MODEL.ROI_BOX_HEAD.NAME", "MyBoxHead"),
        ("MODEL.ROI_MASK_HEAD.NAME", "MyMaskHead"),
        ("MODEL.RPN.HEAD_NAME", "MyRPNHead"),
        ("MODEL.PROPOSAL_GENERATOR.MIN_SIZE", 8),
        ("_BASE_", "../Base-RCNN-FPN.yaml"),
    ],
)
def test_a_config_with_unsupported_options_is_refused_by_name(tmp_path: Path, path: str, value: Any) -> None:
    weights = checkpoint(tmp_path)
    edit(weights.with_name("config.yaml"), path, value)
    with pytest.raises(WeightsError, match=rf"config\.yaml.*{path.rpartition('.')[2]}"):
        read_checkpoint(weights)


class ForbiddingStore(MemoryFileSystem):
    """A store that forbids reading config.yaml and files that do not exist."""

    protocol = "guarded"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("guarded:"))

    def _open(self, path: str, *args: Any, **kwargs: Any) -> Any:
        if path == "/d2/config.yaml" or not self.exists(path):
            raise PermissionError("Forbidden")
        return super()._open(path, *args, **kwargs)


def test_a_config_that_must_not_be_read_is_an_error(tmp_path: Path) -> None:
    fsspec.register_implementation("guarded", ForbiddingStore, clobber=True)
    data = (DATA / "r50" / "model.pkl").read_bytes()
    fsspec.filesystem("memory").pipe("/d2/model.pkl", data)
    assert "no config.yaml" in read_checkpoint("memory://d2/model.pkl").provenance["note"]
    with pytest.raises(WeightsError, match=r"guarded://d2/config\.yaml: PermissionError"):
        read_checkpoint("guarded://d2/model.pkl")
    config = (DATA / "r50" / "config.yaml").read_bytes()
    fsspec.filesystem("memory").pipe({"/other/model.pkl": data, "/other/config.yaml": config})
    assert read_checkpoint("guarded://other/model.pkl").provenance["note"] == "conventions of config.yaml"


@pytest.mark.parametrize("text", ["a: [", "!!python/object/apply:os.system ['true']", "just text", "MODELS: {}"])
def test_a_file_that_is_not_a_config(tmp_path: Path, text: str) -> None:
    weights = checkpoint(tmp_path)
    weights.with_name("config.yaml").write_text(text)
    with pytest.raises(WeightsError, match=r"config\.yaml"):
        read_checkpoint(weights)


def test_a_config_of_the_same_name_comes_first(tmp_path: Path) -> None:
    weights = checkpoint(tmp_path)
    shutil.copy(tmp_path / "config.yaml", tmp_path / "model.yaml")
    edit(tmp_path / "model.yaml", "TEST.DETECTIONS_PER_IMAGE", 3)
    assert read_checkpoint(weights).preset.max_detections == 3


def test_missing_unknown_and_misshapen_keys_are_named(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    broken = dict(arrays)
    del broken["backbone.fpn_output3.bias"]
    broken["backbone.bottom_up.res2.0.conv9.weight"] = np.ones(3, np.float32)
    broken["proposal_generator.rpn_head.conv.weight"] = np.ones((16, 16, 1, 1), np.float32)
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": broken}))
    with pytest.raises(WeightsError) as error:
        load_model(path)
    for key in ("fpn.layer_blocks.1.0.bias", "res2.0.conv9.weight", "rpn.head.conv.0.0.weight"):
        assert key in str(error.value)


class Harmful:
    """Creates a file when it is unpickled without protection."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_that_calls_functions_is_refused(arrays: dict[str, np.ndarray], tmp_path: Path, protocol: int) -> None:
    made = tmp_path / "made"
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": arrays | {"extra": Harmful(made)}}, protocol=protocol))
    with pytest.raises(WeightsError, match="not run"):
        read_checkpoint(path)
    assert not made.exists()


def test_class_agnostic_heads(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    agnostic = {k: v[:4] for k, v in arrays.items() if "bbox_pred" in k}
    path.write_bytes(pickle.dumps({"model": arrays | agnostic}))
    with pytest.raises(WeightsError, match="class-agnostic"):
        read_checkpoint(path)
