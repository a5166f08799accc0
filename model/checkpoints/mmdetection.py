"""mmdetection's Mask R-CNN with an FPN (R-50, R-101; `pytorch` and `caffe` styles): names and conventions.

The conventions are those of mmdetection's published configs, checked by hand-computed cases; nothing here
was compared with mmdetection itself.
"""

from __future__ import annotations

import math
import re
from typing import Any

from model.checkpoints.coco_categories import COCO_CLASSES
from model.checkpoints.key_mapping import Rename, State, background_first, classes, renamed, rgb_first
from model.checkpoints.torchvision import architecture_of
from model.preset import Preset

_IGNORED = re.compile(r"^data_preprocessor\.")
_RULES: list[Rename] = [
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


def is_mmdetection(state: State) -> bool:
    """Whether these are mmdetection's keys."""
    return any(key.startswith("rpn_head.") for key in state)


def style_of(meta: dict[str, Any], filename: str) -> str:
    """ "pytorch" or "caffe": what the config in the checkpoint says, else the file's name; else pytorch."""
    config = str(meta.get("config") or meta.get("cfg") or "")
    if found := re.search(r"""style\\?['"]?\s*[=:]\s*\\?['"](pytorch|caffe)""", config):
        return found[1]
    return "caffe" if "caffe" in filename else "pytorch"


def class_names(meta: dict[str, Any]) -> tuple[str, ...]:
    """The dataset's class names, where the checkpoint has them; as COCO writes them (old versions: "hot_dog")."""
    names = tuple(str(n) for n in meta.get("CLASSES") or (meta.get("dataset_meta") or {}).get("classes") or ())
    spaced = tuple(name.replace("_", " ") for name in names)
    return spaced if spaced == tuple(COCO_CLASSES.values()) else names


def from_mmdetection(state: State, meta: dict[str, Any], filename: str) -> tuple[State, Preset]:
    """The tensors in our layout, and the preset.

    Raises:
        WeightsError: not a Mask R-CNN with an FPN.
    """
    state = renamed(state, _RULES, _IGNORED)
    shape = architecture_of(state)
    state = background_first(state)
    caffe = style_of(meta, filename) == "caffe"
    if caffe:
        state = rgb_first(state)
    number = len(state["roi_heads.box_predictor.cls_score.weight"]) - 1
    names = class_names(meta)
    labels: dict[str, Any] = classes(number)
    if len(names) == number and names != labels["categories"]:
        labels = {"category_ids": tuple(range(1, number + 1)), "categories": names}
    std = (1.0, 1.0, 1.0) if caffe else (58.395, 57.12, 57.375)
    mean = (123.675, 116.28, 103.53)
    preset = Preset().replace(
        **shape,
        **labels,
        family="mmdetection",
        stride_on_1x1=caffe,
        mean=tuple(v / 255 for v in mean),
        std=tuple(v / 255 for v in std),
        anchor_rounding=False,
        anchor_stride="nominal",
        rpn_min_size=1e-30,  # "not empty"
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
