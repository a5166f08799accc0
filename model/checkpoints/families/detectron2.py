"""detectron2's Mask R-CNN with an FPN (R-50, R-101, X-101): keys and conventions.

The conventions are those of detectron2's code and of the configs in its model zoo. The place of the stride, pixel
statistics, test sizes and thresholds leave no trace in the tensors, so a config next to the weights overrides them.
"""

from __future__ import annotations

import re
from typing import Any

from model.checkpoints.families.detectron2_config import apply_config, parse_config, to_rgb_unit_range
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

_IGNORED = re.compile(r"^(pixel_mean|pixel_std|(proposal_generator\.)?anchor_generator\.)")
_MEAN_BGR = (103.53, 116.28, 123.675)  # of pixels in 0..255
_STD_BGR_RESNEXT = (57.375, 57.12, 58.395)  # the ResNets of the zoo do not divide


def _key_rules() -> list[KeyRule]:
    norm = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
    rules = [
        (r"^backbone\.bottom_up\.stem\.conv1\.(weight)$", r"backbone.body.conv1.\1"),
        (rf"^backbone\.bottom_up\.stem\.conv1\.norm\.{norm}$", r"backbone.body.bn1.\1"),
        (r"^proposal_generator\.rpn_head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
        (r"^proposal_generator\.rpn_head\.objectness_logits\.(weight|bias)$", r"rpn.head.cls_logits.\1"),
        (r"^proposal_generator\.rpn_head\.anchor_deltas\.(weight|bias)$", r"rpn.head.bbox_pred.\1"),
        (r"^roi_heads\.box_head\.fc1\.(weight|bias)$", r"roi_heads.box_head.fc6.\1"),
        (r"^roi_heads\.box_head\.fc2\.(weight|bias)$", r"roi_heads.box_head.fc7.\1"),
        (r"^roi_heads\.mask_head\.deconv\.(weight|bias)$", r"roi_heads.mask_predictor.conv5_mask.\1"),
        (r"^roi_heads\.mask_head\.predictor\.(weight|bias)$", r"roi_heads.mask_predictor.mask_fcn_logits.\1"),
    ]
    for stage in (2, 3, 4, 5):  # res2 is torchvision's layer1
        res, layer = rf"^backbone\.bottom_up\.res{stage}\.(\d+)\.", rf"backbone.body.layer{stage - 1}.\1."
        rules += [
            (rf"{res}conv([123])\.(weight)$", rf"{layer}conv\2.\3"),
            (rf"{res}conv([123])\.norm\.{norm}$", rf"{layer}bn\2.\3"),
            (rf"{res}shortcut\.(weight)$", rf"{layer}downsample.0.\2"),
            (rf"{res}shortcut\.norm\.{norm}$", rf"{layer}downsample.1.\2"),
            (rf"^backbone\.fpn_lateral{stage}\.(weight|bias)$", rf"backbone.fpn.inner_blocks.{stage - 2}.0.\1"),
            (rf"^backbone\.fpn_output{stage}\.(weight|bias)$", rf"backbone.fpn.layer_blocks.{stage - 2}.0.\1"),
        ]
    for i in range(1, 9):
        rules.append((rf"^roi_heads\.mask_head\.mask_fcn{i}\.(weight|bias)$", rf"roi_heads.mask_head.{i - 1}.0.\1"))
    return [(re.compile(pattern), replacement) for pattern, replacement in rules]


KEY_RULES = _key_rules()


def from_detectron2(state: State, config: dict[str, Any] | None) -> tuple[State, Preset]:
    """Converts detectron2's tensors to our layout.

    Args:
        state: tensors by detectron2's names.
        config: content of the config.yaml, or None for the defaults of the model zoo.

    Returns:
        The tensors under torchvision's names, and the preset.

    Raises:
        WeightsError: The checkpoint is not a Mask R-CNN with an FPN, or the config asks for something that this
            network does not have.
    """
    state = rename_keys(state, KEY_RULES, _IGNORED)
    architecture = infer_architecture(state)
    state = convert_bgr_to_rgb(move_background_first(state))
    resnext = architecture["groups"] > 1
    preset = Preset().replace(
        **architecture,
        **class_fields(len(state["roi_heads.box_predictor.cls_score.weight"]) - 1),
        family="detectron2",
        stride_on_1x1=not resnext,
        mean=to_rgb_unit_range(_MEAN_BGR),
        std=to_rgb_unit_range(_STD_BGR_RESNEXT if resnext else (1.0, 1.0, 1.0)),
        anchor_rounding=False,
        anchor_stride="nominal",
        rpn_rank="logit",
        rpn_min_size=1e-30,  # keeps all boxes that are not empty
        min_box=1e-30,
        roi_level_eps=0.0,
        roi_ratio_eps=1e-8,
        roi_aligned=True,
        roi_sampling=0,
        mask_paste="detectron2",
        resize_rounding="detectron2",
        resize="pillow",
    )
    return state, preset if config is None else apply_config(preset, config)


def _recognises(state: State) -> bool:
    return any(key.startswith("backbone.bottom_up.") for key in state)


def _convert(checkpoint: ForeignCheckpoint) -> ConvertedCheckpoint:
    stem = checkpoint.filename.rpartition(".")[0]
    file = checkpoint.read_sibling([f"{stem}.yaml", "config.yaml"])
    config = parse_config(file[1], file[0]) if file else None
    note = f"conventions of {file[0]}" if file else "no config.yaml next to it: conventions of the model zoo"
    state, preset = from_detectron2(checkpoint.state, config)
    return ConvertedCheckpoint(state, preset, {"imported_from": "detectron2", "note": note})


DETECTRON2 = CheckpointFamily("detectron2", _recognises, _convert)
