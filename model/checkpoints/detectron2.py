"""detectron2's Mask R-CNN with an FPN (R-50, R-101, X-101): names, conventions, and its config.yaml.

Conventions are those of detectron2's own code and of its model zoo's configs; what a config says comes
first. The stride's place, pixel statistics, test sizes and thresholds leave no trace in the tensors.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from model.checkpoints.key_mapping import Rename, State, background_first, classes, renamed, rgb_first
from model.checkpoints.torchvision import architecture_of
from model.errors import WeightsError
from model.preset import Preset

_NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_RES = r"^backbone\.bottom_up\.res(?P<n>[2345])\.(\d+)\."
_STAGES = {"2": "1", "3": "2", "4": "3", "5": "4"}
_IGNORED = re.compile(r"^(pixel_mean|pixel_std|(proposal_generator\.)?anchor_generator\.)")


def _rules() -> list[Rename]:
    rules = [
        (r"^backbone\.bottom_up\.stem\.conv1\.(weight)$", r"backbone.body.conv1.\1"),
        (rf"^backbone\.bottom_up\.stem\.conv1\.norm\.{_NORM}$", r"backbone.body.bn1.\1"),
        (r"^proposal_generator\.rpn_head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
        (r"^proposal_generator\.rpn_head\.objectness_logits\.(weight|bias)$", r"rpn.head.cls_logits.\1"),
        (r"^proposal_generator\.rpn_head\.anchor_deltas\.(weight|bias)$", r"rpn.head.bbox_pred.\1"),
        (r"^roi_heads\.box_head\.fc1\.(weight|bias)$", r"roi_heads.box_head.fc6.\1"),
        (r"^roi_heads\.box_head\.fc2\.(weight|bias)$", r"roi_heads.box_head.fc7.\1"),
        (r"^roi_heads\.mask_head\.deconv\.(weight|bias)$", r"roi_heads.mask_predictor.conv5_mask.\1"),
        (r"^roi_heads\.mask_head\.predictor\.(weight|bias)$", r"roi_heads.mask_predictor.mask_fcn_logits.\1"),
    ]
    for theirs, ours in _STAGES.items():
        res, layer = rf"^backbone\.bottom_up\.res{theirs}\.(\d+)\.", rf"backbone.body.layer{ours}.\1."
        rules += [
            (rf"{res}conv([123])\.(weight)$", rf"{layer}conv\2.\3"),
            (rf"{res}conv([123])\.norm\.{_NORM}$", rf"{layer}bn\2.\3"),
            (rf"{res}shortcut\.(weight)$", rf"{layer}downsample.0.\2"),
            (rf"{res}shortcut\.norm\.{_NORM}$", rf"{layer}downsample.1.\2"),
            (rf"^backbone\.fpn_lateral{theirs}\.(weight|bias)$", rf"backbone.fpn.inner_blocks.{int(ours) - 1}.0.\1"),
            (rf"^backbone\.fpn_output{theirs}\.(weight|bias)$", rf"backbone.fpn.layer_blocks.{int(ours) - 1}.0.\1"),
        ]
    for i in range(1, 9):
        rules.append((rf"^roi_heads\.mask_head\.mask_fcn{i}\.(weight|bias)$", rf"roi_heads.mask_head.{i - 1}.0.\1"))
    return [(re.compile(pattern), replacement) for pattern, replacement in rules]


def is_detectron2(state: State) -> bool:
    """Whether these are detectron2's keys."""
    return any(key.startswith("backbone.bottom_up.") for key in state)


def from_detectron2(state: State, config: dict[str, Any] | None) -> tuple[State, Preset]:
    """The tensors in our layout, and the preset.

    Args:
        config: the content of the config.yaml, or None: the zoo's defaults.

    Raises:
        WeightsError: not a Mask R-CNN with an FPN, or a config that asks for what this network has not.
    """
    state = renamed(state, _rules(), _IGNORED)
    shape = architecture_of(state)
    state = rgb_first(background_first(state))
    grouped = shape["groups"] > 1
    std = (57.375, 57.12, 58.395) if grouped else (1.0, 1.0, 1.0)
    preset = Preset().replace(
        **shape,
        **classes(len(state["roi_heads.box_predictor.cls_score.weight"]) - 1),
        family="detectron2",
        stride_on_1x1=not grouped,
        mean=_pixels((103.53, 116.28, 123.675)),
        std=_pixels(std),
        anchor_rounding=False,
        anchor_stride="nominal",
        rpn_rank="logit",
        rpn_min_size=1e-30,  # "not empty"
        min_box=1e-30,
        roi_level_eps=0.0,
        roi_ratio_eps=1e-8,
        roi_aligned=True,
        roi_sampling=0,
        mask_paste="detectron2",
        resize_rounding="detectron2",
        resize="pillow",
    )
    return state, preset if config is None else _configured(preset, config)


def _pixels(values: Any) -> tuple[float, ...]:
    """detectron2's BGR statistics of pixels 0..255 as ours: RGB, 0..1."""
    return tuple(v / 255 for v in values[::-1])


# What has to be so in a config, as this network has nothing else.
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
_FIELDS = {
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


def _configured(preset: Preset, config: dict[str, Any]) -> Preset:
    """The preset with what a config says."""
    if "_BASE_" in config:
        raise WeightsError(
            "config.yaml builds on another (_BASE_), which is not read: write it whole with cfg.dump(), or move it "
            "away to use the zoo's defaults"
        )
    for path, allowed in _REQUIRED.items():
        value = _at(config, path)
        if value is not None and value not in allowed:
            raise WeightsError(f"config.yaml: {path} is {value!r}; supported: {', '.join(map(repr, allowed))}")
    for option in ("POOLER_TYPE", "POOLER_SAMPLING_RATIO"):
        box, mask = (_at(config, f"MODEL.ROI_{head}_HEAD.{option}") for head in ("BOX", "MASK"))
        if box != mask:
            raise WeightsError(f"config.yaml: {option} is {box!r} for boxes and {mask!r} for masks; they must be equal")
    fields = {field: _at(config, path) for path, field in _FIELDS.items()}
    fields["roi_aligned"] = _at(config, "MODEL.ROI_BOX_HEAD.POOLER_TYPE") != "ROIAlign"
    for option, field in (("PIXEL_MEAN", "mean"), ("PIXEL_STD", "std")):
        if given := _at(config, f"MODEL.{option}"):
            fields[field] = _pixels(given)
    if _at(config, "INPUT.FORMAT") == "RGB":
        raise WeightsError("config.yaml: INPUT.FORMAT RGB is not supported; the model zoo's checkpoints take BGR")
    for option, field in (("SIZES", "anchor_sizes"), ("ASPECT_RATIOS", "anchor_ratios")):
        if given := _at(config, f"MODEL.ANCHOR_GENERATOR.{option}"):
            levels = [tuple(float(v) for v in level) for level in given]
            fields[field] = tuple(levels * 5 if len(levels) == 1 else levels)
    if any(len(level) > 1 for level in fields.get("anchor_sizes") or ()):
        raise WeightsError("config.yaml: MODEL.ANCHOR_GENERATOR.SIZES has several on one level, which is not supported")
    return preset.replace(**{field: value for field, value in fields.items() if value is not None})


def _at(config: dict[str, Any], path: str) -> Any:
    """The value under a dotted path, or None."""
    node: Any = config
    for key in path.split("."):
        node = node.get(key) if isinstance(node, dict) else None
    return node


def parse_config(text: bytes, name: str) -> dict[str, Any]:
    """A detectron2 config; only plain YAML.

    Raises:
        WeightsError: it is none.
    """
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise WeightsError(f"{name} is not plain YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(config, dict) or "MODEL" not in config:
        raise WeightsError(f"{name} is no detectron2 config: it has no MODEL; move it away to use the zoo's defaults")
    return config
