"""mmdetection's checkpoints: keys, and conventions checked with hand-computed cases."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from support.mmdetection import names

from model import WeightsError, load_model, read_checkpoint, rle
from model.checkpoints.families.coco_categories import COCO_CLASSES
from model.checkpoints.families.mmdetection import from_mmdetection
from model.layers.anchors import cell_anchors
from model.layers.boxes import decode, large_enough
from model.layers.roi_align import multiscale_roi_align, roi_levels
from model.layers.transform import resize_uint8, resized_size, to_input

NORM = ("weight", "bias", "running_mean", "running_var")


@pytest.fixture
def state(tiny: Any) -> dict[str, torch.Tensor]:
    """A small network under mmdetection's names: 3 classes, the background last."""
    from model.mask_rcnn import MaskRCNN

    torch.manual_seed(0)
    preset = tiny.replace(bottleneck=True, trunk_channels=(32, 48, 64, 96), trunk_widths=(8, 12, 16, 24))
    result = {names(k): v.clone() for k, v in MaskRCNN(preset).state_dict().items()}
    for kind in ("weight", "bias"):
        result[f"roi_head.bbox_head.fc_reg.{kind}"] = result[f"roi_head.bbox_head.fc_reg.{kind}"][4:]
        result[f"roi_head.mask_head.conv_logits.{kind}"] = result[f"roi_head.mask_head.conv_logits.{kind}"][1:]
    return result


def saved(state: dict[str, torch.Tensor], path: Path, **meta: Any) -> Path:
    torch.save({"state_dict": state, "meta": meta}, path)
    return path


def test_the_background_comes_first(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    ours = read_checkpoint(saved(state, tmp_path / "m.pth")).state
    logits = state["roi_head.bbox_head.fc_cls.weight"]
    assert torch.equal(ours["roi_heads.box_predictor.cls_score.weight"], logits[[3, 0, 1, 2]])
    deltas = ours["roi_heads.box_predictor.bbox_pred.weight"]
    assert not deltas[:4].any()
    assert torch.equal(deltas[4:], state["roi_head.bbox_head.fc_reg.weight"])
    assert torch.equal(
        ours["roi_heads.mask_predictor.mask_fcn_logits.bias"][1:], state["roi_head.mask_head.conv_logits.bias"]
    )


@pytest.mark.parametrize(
    ("name", "meta", "style"),
    [
        ("mask_rcnn_r50_fpn_1x_coco.pth", {}, "pytorch"),
        ("mask_rcnn_r50_caffe_fpn_3x_coco.pth", {}, "caffe"),
        ("w.pth", {"config": "backbone=dict(type='ResNet', style='caffe')"}, "caffe"),
        ("w_caffe.pth", {"config": 'backbone=dict(\n    style="pytorch")'}, "pytorch"),
        ("w.pth", {"cfg": "{'backbone': {'style': 'caffe'}}"}, "caffe"),
    ],
)
def test_styles(state: dict[str, torch.Tensor], tmp_path: Path, name: str, meta: dict[str, str], style: str) -> None:
    checkpoint = read_checkpoint(saved(state, tmp_path / name, **meta))
    first, theirs = checkpoint.state["backbone.body.conv1.weight"], state["backbone.conv1.weight"]
    assert torch.equal(first, theirs.flip(1) if style == "caffe" else theirs)
    assert checkpoint.preset.stride_on_1x1 is (style == "caffe")
    assert style in checkpoint.provenance["note"]


def test_class_names_of_the_dataset(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    for meta in ({"CLASSES": ("a", "b", "c")}, {"dataset_meta": {"classes": ["a", "b", "c"]}}):
        assert read_checkpoint(saved(state, tmp_path / "m.pth", **meta)).preset.categories == ("a", "b", "c")
    assert read_checkpoint(saved(state, tmp_path / "m.pth")).preset.categories == ("class 1", "class 2", "class 3")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (tuple(COCO_CLASSES.values()), COCO_CLASSES),
        (tuple(name.replace(" ", "_") for name in COCO_CLASSES.values()), COCO_CLASSES),
        ((), COCO_CLASSES),
        (tuple(f"my_cell_{i}" for i in range(80)), {i + 1: f"my_cell_{i}" for i in range(80)}),
    ],
)
def test_eighty_classes_are_cocos_unless_the_checkpoint_names_others(
    state: dict[str, torch.Tensor], names: tuple[str, ...], expected: dict[int, str]
) -> None:
    wide = dict(state)
    for kind in ("weight", "bias"):
        for key, rows in (("bbox_head.fc_cls", 81), ("bbox_head.fc_reg", 320), ("mask_head.conv_logits", 80)):
            value = state[f"roi_head.{key}.{kind}"]
            wide[f"roi_head.{key}.{kind}"] = value[:1].expand(rows, *value.shape[1:])
    preset = from_mmdetection(wide, {"CLASSES": names}, "m.pth")[1]
    assert dict(zip(preset.category_ids, preset.categories, strict=True)) == expected


@pytest.mark.parametrize("caffe", [False, True])
def test_pixels_reach_the_first_convolution_as_in_mmdetection(
    state: dict[str, torch.Tensor], tmp_path: Path, caffe: bool
) -> None:
    """pytorch: (RGB - mean) / std. caffe: BGR - mean, no division. Computed by hand for one colour."""
    checkpoint = read_checkpoint(saved(state, tmp_path / ("caffe.pth" if caffe else "m.pth")))
    colour = np.array([10, 100, 200], np.uint8)  # R, G, B
    image = torch.from_numpy(np.tile(colour, (64, 64, 1)))
    preset = checkpoint.preset.replace(min_size=64, max_size=64)
    ours = to_input([image], [(64, 64)], preset, torch.device("cpu"))[0, :, 0, 0]
    kernel = checkpoint.state["backbone.body.conv1.weight"][:, :, 0, 0]
    if caffe:
        theirs = torch.tensor([200 - 103.53, 100 - 116.28, 10 - 123.675])
    else:
        theirs = torch.tensor([(10 - 123.675) / 58.395, (100 - 116.28) / 57.12, (200 - 103.53) / 57.375])
    torch.testing.assert_close(kernel @ ours, state["backbone.conv1.weight"][:, :, 0, 0] @ theirs, rtol=1e-5, atol=1e-4)


def test_anchors_are_eight_strides_wide_and_not_rounded(
    pyramid_anchors: Callable[..., list[torch.Tensor]], state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    preset = read_checkpoint(saved(state, tmp_path / "m.pth")).preset
    cell = cell_anchors(preset.anchor_sizes[0], preset.anchor_ratios[0], preset.anchor_rounding)
    # Scale 8 at stride 4: area 32 * 32; h / w = 0.5: 45.2548 x 22.6274.
    torch.testing.assert_close(cell[0], torch.tensor([-22.62742, -11.31371, 22.62742, 11.31371]))
    torch.testing.assert_close(cell[1], torch.tensor([-16.0, -16.0, 16.0, 16.0]))
    assert [sizes[0] for sizes in preset.anchor_sizes] == [8 * s for s in (4, 8, 16, 32, 64)]
    # The stride is the level's nominal one, even if the last map does not divide the input evenly.
    last = pyramid_anchors(preset, [(24, 24), (12, 12), (6, 6), (3, 3), (2, 2)], 96, 96)[4]
    assert last[3, 0] + last[3, 2] == 128  # the second location's centre, twice


def test_rois_are_sampled_once_per_cell_with_a_half_pixel_offset(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """84 input pixels are 21 cells of P2: three per bin, so three samples per bin, here at whole cells."""
    preset = read_checkpoint(saved(state, tmp_path / "m.pth")).preset
    squares = (torch.arange(64.0) ** 2).expand(1, 1, 64, 64)  # column x holds x * x
    features = [squares, *(torch.full((1, 1, s, s), -1.0) for s in (32, 16, 8))]
    rois = torch.tensor([[0.0, 40.0, 40.0, 124.0, 124.0]])
    # The RoI starts at 40 / 4 - 0.5 = 9.5. The first bin samples 10, 11 and 12, the last 28, 29 and 30.
    row = multiscale_roi_align(features, rois, 7, preset)[0, 0, 0]
    assert row[0].item() == pytest.approx((100 + 121 + 144) / 3, abs=1e-3)
    assert row[6].item() == pytest.approx((784 + 841 + 900) / 3, abs=1e-3)


def test_masks_are_pasted_at_pixel_centres(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """A full mask over x 2.4 to 6.4 and y 3 to 5 contains the centres 2.5 to 5.5 and 3.5 to 4.5."""
    paste = read_checkpoint(saved(state, tmp_path / "m.pth")).preset.mask_paste
    (counts,) = rle.encode(torch.ones(1, 28, 28), torch.tensor([[2.4, 3.0, 6.4, 5.0]]), 10, 12, paste=paste)
    expected = np.zeros((10, 12), np.uint8)
    expected[3:5, 2:6] = 1
    assert np.array_equal(coco.decode({"size": [10, 12], "counts": counts}), expected)


def test_thresholds_and_limits(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """The numbers of the published configs."""
    p = read_checkpoint(saved(state, tmp_path / "m.pth")).preset
    assert (p.rpn_pre_nms, p.rpn_post_nms, p.rpn_nms) == (1000, 1000, 0.7)
    assert (p.min_score, p.nms, p.max_detections) == (0.05, 0.5, 100)
    sides = torch.tensor(
        [[3.0, 3.0, 3.001, 9.0], [3.0, 3.0, 3.0, 9.0]]
    )  # a very narrow box counts, an empty one does not
    assert large_enough(sides, p.min_box).tolist() == large_enough(sides, p.rpn_min_size).tolist() == [True, False]


def test_levels(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """floor(log2(sqrt(w h) / 56 + 1e-6)), clamped to 0..3."""
    preset = read_checkpoint(saved(state, tmp_path / "m.pth")).preset
    sides = torch.tensor([1.0, 55.0, 111.9, 112.0, 223.9, 224.0, 447.9, 448.0, 4000.0])
    boxes = torch.stack([torch.zeros(9), torch.zeros(9), sides, sides], 1)
    assert roi_levels(boxes, preset).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]


def test_deltas_are_scaled_and_clamped_on_both_sides(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """Standard deviations 0.1 0.1 0.2 0.2; |dw|, |dh| at most ln(1000 / 16)."""
    p = read_checkpoint(saved(state, tmp_path / "m.pth")).preset
    box = torch.tensor([[10.0, 20.0, 26.0, 52.0]])  # 16 x 32 at (18, 36)
    moved = decode(
        torch.tensor([[1.0, -2.0, 5.0 * math.log(2), 0.0]]), box, p.box_weights, p.box_clamp, p.box_clamp_low
    )
    # x 18 + 0.1 * 16, y 36 - 0.2 * 32, width 16 * 2, height 32
    torch.testing.assert_close(moved, torch.tensor([[3.6, 13.6, 35.6, 45.6]]))
    wild = decode(torch.tensor([[0.0, 0.0, 1e3, -1e3]]), box, p.box_weights, p.box_clamp, p.box_clamp_low)[0]
    assert wild[2] - wild[0] == pytest.approx(16 * 1000 / 16, rel=1e-4)
    assert wild[3] - wild[1] == pytest.approx(32 * 16 / 1000, rel=1e-3)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((480, 640), (800, 1067)), ((427, 640), (800, 1199)), ((500, 2000), (333, 1333)), ((1200, 1600), (800, 1067))],
)
def test_sizes_are_rounded(state: dict[str, torch.Tensor], tmp_path: Path, size: Any, expected: Any) -> None:
    assert resized_size(*size, read_checkpoint(saved(state, tmp_path / "m.pth")).preset) == expected


def test_resizing_is_bilinear_in_whole_grey_levels(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    preset = read_checkpoint(saved(state, tmp_path / "m.pth")).preset
    image = torch.tensor([[0, 100], [200, 50]], dtype=torch.uint8)[..., None].expand(2, 2, 3)
    # Twice as large: samples at -0.25 (clamped to 0), 0.25, 0.75, 1.25 (clamped to 1).
    expected = [[0, 25, 75, 100], [50, 59, 78, 88], [150, 128, 84, 62], [200, 162, 88, 50]]
    assert (resize_uint8(image, (4, 4), preset)[..., 0].int() - torch.tensor(expected)).abs().max() <= 1


def test_it_predicts(state: dict[str, torch.Tensor], tmp_path: Path, pixels: Any) -> None:
    network = load_model(saved(state, tmp_path / "m.pth"), device="cpu", min_size=128, max_size=200, min_score=0.0)
    assert len(network.predict([pixels["small"]])[0]) > 0


def test_unknown_keys_are_named(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    state["rpn_head.rpn_extra.weight"] = torch.ones(1)
    del state["neck.fpn_convs.2.conv.bias"]
    with pytest.raises(WeightsError) as error:
        load_model(saved(state, tmp_path / "m.pth"))
    assert "rpn_head.rpn_extra.weight" in str(error.value)
    assert "backbone.fpn.layer_blocks.2.0.bias" in str(error.value)
