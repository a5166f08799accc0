"""Reads a detectron2 config.yaml: the fields of the preset that it sets, and the values that we cannot run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from model.errors import WeightsError
from model.preset import Preset

# The network has no alternative for these options, so a config must have one of the listed values, or none.
_REQUIRED: dict[str, tuple[Any, ...]] = {
    "MODEL.META_ARCHITECTURE": ("GeneralizedRCNN",),
    "MODEL.MASK_ON": (True,),
    "MODEL.KEYPOINT_ON": (False,),
    "MODEL.ANCHOR_GENERATOR.NAME": ("DefaultAnchorGenerator",),
    "MODEL.ANCHOR_GENERATOR.OFFSET": (0.0,),
    "MODEL.BACKBONE.NAME": ("build_resnet_fpn_backbone",),
    "MODEL.FPN.FUSE_TYPE": ("sum",),
    "MODEL.FPN.NORM": ("",),
    "MODEL.PROPOSAL_GENERATOR.NAME": ("RPN",),
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": (0,),
    "MODEL.RESNETS.RES5_DILATION": (1,),
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": ([False] * 4,),
    "MODEL.RPN.HEAD_NAME": ("StandardRPNHead",),
    "MODEL.RPN.IN_FEATURES": (["p2", "p3", "p4", "p5", "p6"],),
    "MODEL.ROI_HEADS.NAME": ("StandardROIHeads",),
    "MODEL.ROI_HEADS.IN_FEATURES": (["p2", "p3", "p4", "p5"],),
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": (False,),
    "MODEL.ROI_BOX_HEAD.NAME": ("FastRCNNConvFCHead",),
    "MODEL.ROI_BOX_HEAD.NORM": ("",),
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": (False,),
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": ("ROIAlignV2", "ROIAlign"),
    "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": (False,),
    "MODEL.ROI_MASK_HEAD.NAME": ("MaskRCNNConvUpsampleHead",),
    "MODEL.ROI_MASK_HEAD.NORM": ("",),
    "INPUT.FORMAT": ("BGR", "RGB"),
    "TEST.AUG.ENABLED": (False,),
}
_PRESET_FIELDS = {  # options that are a field of the preset as they are
    "MODEL.RESNETS.STRIDE_IN_1X1": "stride_on_1x1",
    "MODEL.RPN.PRE_NMS_TOPK_TEST": "rpn_pre_nms",
    "MODEL.RPN.POST_NMS_TOPK_TEST": "rpn_post_nms",
    "MODEL.RPN.NMS_THRESH": "rpn_nms",
    "MODEL.RPN.BBOX_REG_WEIGHTS": "rpn_box_weights",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": "min_score",
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": "nms",
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": "box_weights",
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": "box_roi_size",
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": "roi_sampling",
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": "mask_roi_size",
    "TEST.DETECTIONS_PER_IMAGE": "max_detections",
    "INPUT.MIN_SIZE_TEST": "min_size",
    "INPUT.MAX_SIZE_TEST": "max_size",
}


def parse_config(text: bytes, name: str) -> dict[str, Any]:
    """Parses a detectron2 config. Only plain YAML is accepted.

    Args:
        text: content of the file.
        name: name of the file, for errors.

    Raises:
        WeightsError: The file is not plain YAML, or not a detectron2 config.
    """
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise WeightsError(f"{name} is not plain YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(config, dict) or "MODEL" not in config:
        raise WeightsError(
            f"{name} is not a detectron2 config because it has no MODEL; move it away to use the zoo's defaults"
        )
    return config


def apply_config(preset: Preset, config: dict[str, Any]) -> Preset:
    """Overrides a preset with the values in a config. Options that the config lacks stay as they are.

    Raises:
        WeightsError: The config asks for something that this network does not have.
    """
    _check_supported(config)
    fields = {field: _value_at(config, path) for path, field in _PRESET_FIELDS.items()}
    fields["roi_aligned"] = _value_at(config, "MODEL.ROI_BOX_HEAD.POOLER_TYPE") != "ROIAlign"
    for option, field in (("PIXEL_MEAN", "mean"), ("PIXEL_STD", "std")):
        if values := _value_at(config, f"MODEL.{option}"):
            fields[field] = to_rgb_unit_range(values)
    for option, field in (("SIZES", "anchor_sizes"), ("ASPECT_RATIOS", "anchor_ratios")):
        if values := _value_at(config, f"MODEL.ANCHOR_GENERATOR.{option}"):
            levels = [tuple(float(v) for v in level) for level in values]
            fields[field] = tuple(levels * 5 if len(levels) == 1 else levels)
    if any(len(level) > 1 for level in fields.get("anchor_sizes") or ()):
        raise WeightsError("config.yaml: MODEL.ANCHOR_GENERATOR.SIZES has several on one level, which is not supported")
    return preset.replace(**{field: value for field, value in fields.items() if value is not None})


def to_rgb_unit_range(values: Sequence[float]) -> tuple[float, ...]:
    """Converts BGR statistics of pixels in 0..255 to RGB statistics of pixels in 0..1."""
    return tuple(v / 255 for v in values[::-1])


def _check_supported(config: dict[str, Any]) -> None:
    """Raises `WeightsError` for an option that this network does not have."""
    if "_BASE_" in config:
        raise WeightsError(
            "config.yaml builds on another config (_BASE_), which is not read: write a complete one with cfg.dump(), "
            "or move it away to use the zoo's defaults"
        )
    for path, allowed in _REQUIRED.items():
        value = _value_at(config, path)
        if value is not None and value not in allowed:
            raise WeightsError(f"config.yaml: {path} is {value!r}; supported: {', '.join(map(repr, allowed))}")
    for option in ("POOLER_TYPE", "POOLER_SAMPLING_RATIO"):
        box, mask = (_value_at(config, f"MODEL.ROI_{head}_HEAD.{option}") for head in ("BOX", "MASK"))
        if box != mask:
            raise WeightsError(f"config.yaml: {option} is {box!r} for boxes and {mask!r} for masks; they must be equal")
    if _value_at(config, "INPUT.FORMAT") == "RGB":
        raise WeightsError("config.yaml: INPUT.FORMAT RGB is not supported; the model zoo's checkpoints take BGR")


def _value_at(config: dict[str, Any], path: str) -> Any:
    """Returns the value at a dotted path, or None."""
    node: Any = config
    for key in path.split("."):
        node = node.get(key) if isinstance(node, dict) else None
    return node
