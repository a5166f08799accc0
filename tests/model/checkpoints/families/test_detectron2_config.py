"""The config.yaml beside a detectron2 checkpoint: applied, refused by name, forbidden, or no config."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import yaml
from fsspec.implementations.memory import MemoryFileSystem

from model import WeightsError, read_checkpoint
from model.checkpoints.families.detectron2 import from_detectron2
from model.checkpoints.file_formats import parse_file

DATA = Path(__file__).parents[3] / "data" / "detectron2" / "r50"


def checkpoint(folder: Path) -> Path:
    for name in ("model.pkl", "config.yaml"):
        shutil.copy(DATA / name, folder)
    return folder / "model.pkl"


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
    data = (DATA / "model.pkl").read_bytes()
    fsspec.filesystem("memory").pipe("/d2/model.pkl", data)
    assert "no config.yaml" in read_checkpoint("memory://d2/model.pkl").provenance["note"]
    with pytest.raises(WeightsError, match=r"guarded://d2/config\.yaml: PermissionError"):
        read_checkpoint("guarded://d2/model.pkl")
    config = (DATA / "config.yaml").read_bytes()
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
