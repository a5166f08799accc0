"""detectron2's checkpoints: our detections equal detectron2's, which are stored with their configs."""

from __future__ import annotations

import collections
import functools
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco

from model import Detections, MaskRCNN, Preset, WeightsError, load_model, read_checkpoint, rle
from model.checkpoints.families.coco_categories import COCO_CLASSES
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
