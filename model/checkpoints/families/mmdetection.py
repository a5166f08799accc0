"""mmdetection's Mask R-CNN with an FPN (R-50 and R-101, styles `pytorch` and `caffe`): keys and conventions.

The conventions are those of mmdetection's published configs. Tests check them with hand-computed cases, not
against mmdetection itself.
"""

from __future__ import annotations

import math
import re
from typing import Any

from model.checkpoints.families.coco_categories import COCO_CLASSES
from model.checkpoints.families.family import CheckpointFamily, ConvertedCheckpoint, ForeignCheckpoint
from model.checkpoints.families.key_mapping import (
    KeyRule,
    State,
    class_fields,
    convert_bgr_to_rgb,
    move_background_first,
    rename_keys,
)
from model.checkpoints.families.torchvision import infer_architecture
from model.preset import Preset

_IGNORED = re.compile(r"^data_preprocessor\.")
KEY_RULES: list[KeyRule] = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^backbone\.(conv1|bn1|layer[1234])\.(.*)$", r"backbone.body.\1.\2"),
        (r"^neck\.lateral_convs\.(\d+)\.conv\.(weight|bias)$", r"backbone.fpn.inner_blocks.\1.0.\2"),
        (r"^neck\.fpn_convs\.([0123])\.conv\.(weight|bias)$", r"backbone.fpn.layer_blocks.\1.0.\2"),
        (r"^rpn_head\.rpn_conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
        (r"^rpn_head\.rpn_cls\.(weight|bias)$", r"rpn.head.cls_logits.\1"),
        (r"^rpn_head\.rpn_reg\.(weight|bias)$", r"rpn.head.bbox_pred.\1"),
        (r"^roi_head\.bbox_head\.shared_fcs\.0\.(weight|bias)$", r"roi_heads.box_head.fc6.\1"),
        (r"^roi_head\.bbox_head\.shared_fcs\.1\.(weight|bias)$", r"roi_heads.box_head.fc7.\1"),
        (r"^roi_head\.bbox_head\.fc_cls\.(weight|bias)$", r"roi_heads.box_predictor.cls_score.\1"),
        (r"^roi_head\.bbox_head\.fc_reg\.(weight|bias)$", r"roi_heads.box_predictor.bbox_pred.\1"),
        (r"^roi_head\.mask_head\.convs\.(\d+)\.conv\.(weight|bias)$", r"roi_heads.mask_head.\1.0.\2"),
        (r"^roi_head\.mask_head\.upsample\.(weight|bias)$", r"roi_heads.mask_predictor.conv5_mask.\1"),
        (r"^roi_head\.mask_head\.conv_logits\.(weight|bias)$", r"roi_heads.mask_predictor.mask_fcn_logits.\1"),
    )
]
_MEAN_RGB = (123.675, 116.28, 103.53)  # of pixels in 0..255; the configs of both styles have them
_STD_RGB = {"pytorch": (58.395, 57.12, 57.375), "caffe": (1.0, 1.0, 1.0)}


def from_mmdetection(state: State, meta: dict[str, Any], filename: str) -> tuple[State, Preset]:
    """Converts mmdetection's tensors to our layout.

    Args:
        state: tensors by mmdetection's names.
        meta: "meta" of the checkpoint file.
        filename: name of the file, which may tell the style.

    Returns:
        The tensors under torchvision's names, and the preset.

    Raises:
        WeightsError: The checkpoint is not a Mask R-CNN with an FPN.
    """
    state = rename_keys(state, KEY_RULES, _IGNORED)
    architecture = infer_architecture(state)
    state = move_background_first(state)
    style = backbone_style(meta, filename)
    if style == "caffe":
        state = convert_bgr_to_rgb(state)
    preset = Preset().replace(
        **architecture,
        **_class_fields(len(state["roi_heads.box_predictor.cls_score.weight"]) - 1, meta),
        family="mmdetection",
        stride_on_1x1=style == "caffe",
        mean=tuple(v / 255 for v in _MEAN_RGB),
        std=tuple(v / 255 for v in _STD_RGB[style]),
        anchor_rounding=False,
        anchor_stride="nominal",
        rpn_min_size=1e-30,  # keeps all boxes that are not empty
        min_box=1e-30,
        box_clamp=abs(math.log(16 / 1000)),
        box_clamp_low=math.log(16 / 1000),
        roi_canonical_level=2,
        roi_canonical_size=56.0,
        roi_level_eps=0.0,
        roi_ratio_eps=1e-6,
        roi_aligned=True,
        roi_sampling=0,
        mask_paste="detectron2",
        resize_rounding="nearest",
        resize="rounded",
    )
    return state, preset


def backbone_style(meta: dict[str, Any], filename: str) -> str:
    """Returns the style of the ResNet, "pytorch" or "caffe".

    The config inside the checkpoint decides, then the file name. Without either the style is "pytorch".
    """
    config = str(meta.get("config") or meta.get("cfg") or "")
    if match := re.search(r"""style\\?['"]?\s*[=:]\s*\\?['"](pytorch|caffe)""", config):
        return match[1]
    return "caffe" if "caffe" in filename else "pytorch"


def _class_names(meta: dict[str, Any]) -> tuple[str, ...]:
    """Returns the dataset's class names from the checkpoint, with COCO's spelt as in COCO, or nothing."""
    names = tuple(str(n) for n in meta.get("CLASSES") or (meta.get("dataset_meta") or {}).get("classes") or ())
    spaced = tuple(name.replace("_", " ") for name in names)  # old versions write "hot_dog"
    return spaced if spaced == tuple(COCO_CLASSES.values()) else names


def _class_fields(number: int, meta: dict[str, Any]) -> dict[str, Any]:
    """Returns the class fields of the preset, with the names in the checkpoint if there are as many."""
    names, fields = _class_names(meta), class_fields(number)
    if len(names) == number and names != fields["categories"]:
        return {"category_ids": tuple(range(1, number + 1)), "categories": names}
    return fields


def _recognises(state: State) -> bool:
    return any(key.startswith("rpn_head.") for key in state)


def _convert(checkpoint: ForeignCheckpoint) -> ConvertedCheckpoint:
    style = backbone_style(checkpoint.training_metadata, checkpoint.filename)
    state, preset = from_mmdetection(checkpoint.state, checkpoint.training_metadata, checkpoint.filename)
    note = f"style {style}; conventions of the published configs"
    return ConvertedCheckpoint(state, preset, {"imported_from": "mmdetection", "note": note})


MMDETECTION = CheckpointFamily("mmdetection", _recognises, _convert)
