"""torchvision's Mask R-CNN: renames the keys of old versions and infers the preset from the shapes."""

from __future__ import annotations

import re
from typing import Any

from model.checkpoints.families.coco_categories import COCO_CLASSES, COCO_OUTPUTS
from model.checkpoints.families.family import CheckpointFamily, ConvertedCheckpoint, ForeignCheckpoint
from model.checkpoints.families.key_mapping import KeyRule, State, check_dimensions, rename_keys
from model.preset import Preset

KEY_RULES: list[KeyRule] = [  # from before torchvision wrapped its convolutions in blocks
    (re.compile(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$"), r"\1.0.\2"),
    (re.compile(r"^rpn\.head\.conv\.(weight|bias)$"), r"rpn.head.conv.0.0.\1"),
    *(
        (re.compile(rf"^roi_heads\.mask_head\.mask_fcn{i}\.(weight|bias)$"), rf"roi_heads.mask_head.{i - 1}.0.\1")
        for i in range(1, 9)
    ),
]
_BOX_CONV = r"roi_heads\.box_head\.(\d+)\.0\."
_PREDICTOR_DIMENSIONS = {
    f"roi_heads.{predictor}.{kind}": dimensions if kind == "weight" else 1
    for predictor, dimensions in (
        ("box_predictor.cls_score", 2),
        ("box_predictor.bbox_pred", 2),
        ("mask_predictor.mask_fcn_logits", 4),
    )
    for kind in ("weight", "bias")
}
_ZERO_EPS_NOTE = (
    "bn_eps 0, as in torchvision's COCO weights and what was fine-tuned from them; from ImageNet it is 1e-5"
)


def rename_old_keys(state: State) -> State:
    """Renames the keys of old torchvision versions to the present ones.

    Raises:
        WeightsError: A tensor exists under both names.
    """
    return rename_keys(state, KEY_RULES)


def infer_preset(state: State) -> Preset:
    """Infers architecture and classes from the shapes. All other fields have torchvision's defaults.

    Anchor sizes, input size and thresholds leave no trace in a state dict. Where they differ from the
    defaults, pass them to `load_model`.

    Args:
        state: tensors under torchvision's present names.

    Raises:
        WeightsError: The keys are not those of a torchvision Mask R-CNN.
    """
    architecture = infer_architecture(state)
    ids, names = _classes(len(state["roi_heads.box_predictor.cls_score.weight"]))
    # torchvision sets the epsilon to zero when it loads its COCO weights. These exist only for an R-50 with
    # frozen normalisation, and networks fine-tuned from them keep the zero. All others have PyTorch's default.
    resnet50 = architecture["bottleneck"] and architecture["blocks"] == (3, 4, 6, 3)
    resnet50 = resnet50 and (architecture["trunk_widths"][3], architecture["groups"]) == (512, 1)
    bn_eps = 0.0 if resnet50 and architecture["frozen_bn"] else 1e-5
    return Preset().replace(**architecture, bn_eps=bn_eps, category_ids=ids, categories=names)


def infer_architecture(state: State) -> dict[str, Any]:
    """Infers the preset fields that the shapes determine.

    Args:
        state: tensors under torchvision's names.

    Returns:
        Values by field of `Preset`.

    Raises:
        WeightsError: Keys that this function reads, or predictors, are missing or have other numbers of
            dimensions. The message names all of them.
    """
    blocks = tuple(_count(state, rf"backbone\.body\.layer{s}\.(\d+)\.") for s in (1, 2, 3, 4))
    bottleneck = any(re.match(r"backbone\.body\.layer\d\.\d+\.conv3\.", k) for k in state)
    inner = [f"backbone.body.layer{s}.0.conv2.weight" for s in (1, 2, 3, 4)]
    last = [k.replace("conv2", "conv3") if bottleneck else k for k in inner]
    mask_convs = max(1, _count(state, r"roi_heads\.mask_head\.(\d+)\.0\."))
    masks = [f"roi_heads.mask_head.{i}.0.weight" for i in range(mask_convs)]
    stem, inner_block = "backbone.body.conv1.weight", "backbone.fpn.inner_blocks.0.0.weight"
    upsample = "roi_heads.mask_predictor.conv5_mask.weight"
    convolutions = (stem, *inner, *last, inner_block, "rpn.head.cls_logits.weight", *masks, upsample)
    check_dimensions(state, dict.fromkeys(convolutions, 4) | _box_head_dimensions(state) | _PREDICTOR_DIMENSIONS)
    width, width_of_group = state[inner[0]].shape[:2]
    return {
        "name": f"mask_rcnn_{'-'.join(map(str, blocks))}",
        "blocks": blocks,
        "trunk_channels": tuple(state[k].shape[0] for k in last),
        "trunk_widths": tuple(state[k].shape[0] for k in inner),
        "stem": state[stem].shape[0],
        "bottleneck": bottleneck,
        "groups": width // width_of_group if bottleneck else 1,
        "frozen_bn": not any(k.startswith("backbone.body") and k.endswith("num_batches_tracked") for k in state),
        "fpn_channels": state[inner_block].shape[0],
        "fpn_norm": any(re.match(r"backbone\.fpn\.inner_blocks\.\d+\.1\.", k) for k in state),
        "rpn_convs": _count(state, r"rpn\.head\.conv\.(\d+)\.0\."),
        "mask_channels": tuple(state[k].shape[0] for k in masks),
        "mask_norm": any(re.match(r"roi_heads\.mask_head\.\d+\.1\.", k) for k in state),
        "mask_hidden": state[upsample].shape[1],
    } | _box_head(state)


def _box_head_dimensions(state: State) -> dict[str, int]:
    """Returns the keys that `_box_head` reads, with their numbers of dimensions."""
    convs = _count(state, _BOX_CONV)
    return {f"roi_heads.box_head.{i}.0.weight": 4 for i in range(convs)} or {"roi_heads.box_head.fc6.weight": 2}


def _box_head(state: State) -> dict[str, Any]:
    """Infers the box head: two named linear layers (V1), or convolutions and then linear layers (V2)."""
    convs = _count(state, _BOX_CONV)
    if not convs:
        return {"box_hidden": state["roi_heads.box_head.fc6.weight"].shape[0]}
    return {
        "box_convs": tuple(state[f"roi_heads.box_head.{i}.0.weight"].shape[0] for i in range(convs)),
        "box_layers": _count(state, r"roi_heads\.box_head\.(\d+)\.(?:weight|bias)$"),
        "box_hidden": state["roi_heads.box_predictor.cls_score.weight"].shape[1],
    }


def _count(state: State, pattern: str) -> int:
    """Counts the layers of a sequence that have any tensor, so that a layer with a missing tensor still counts."""
    return len({match[1] for k in state if (match := re.match(pattern, k))})


def _classes(outputs: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Returns category ids and names for a box predictor with so many outputs, background included."""
    ids = tuple(range(1, outputs))
    if outputs == COCO_OUTPUTS:
        return ids, tuple(COCO_CLASSES.get(i, "N/A") for i in ids)
    return ids, tuple(f"class {i}" for i in ids)


def _convert(checkpoint: ForeignCheckpoint) -> ConvertedCheckpoint:
    state = rename_old_keys(checkpoint.state)
    preset = infer_preset(state)
    assumed = preset.frozen_bn and not preset.bn_eps
    return ConvertedCheckpoint(state, preset, {"note": _ZERO_EPS_NOTE} if assumed else {})


# It recognises every state dict, because missing keys are best reported by torchvision's names.
TORCHVISION = CheckpointFamily("torchvision", recognises=lambda state: True, convert=_convert)
