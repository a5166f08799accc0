"""torchvision's state dicts: old key names made new, and the preset read off the shapes."""

from __future__ import annotations

import re
from typing import Any

from model.checkpoints.coco_categories import COCO_CLASSES, COCO_OUTPUTS
from model.checkpoints.key_mapping import Rename, State, check_dimensions, renamed
from model.preset import Preset

_RENAMES: list[Rename] = [
    (re.compile(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$"), r"\1.0.\2"),
    (re.compile(r"^rpn\.head\.conv\.(weight|bias)$"), r"rpn.head.conv.0.0.\1"),
    *(
        (re.compile(rf"^roi_heads\.mask_head\.mask_fcn{i}\.(weight|bias)$"), rf"roi_heads.mask_head.{i - 1}.0.\1")
        for i in range(1, 9)
    ),
]
_BOX_CONV = r"roi_heads\.box_head\.(\d+)\.0\."
_PREDICTORS = {
    f"roi_heads.{predictor}.{kind}": dimensions if kind == "weight" else 1
    for predictor, dimensions in (
        ("box_predictor.cls_score", 2),
        ("box_predictor.bbox_pred", 2),
        ("mask_predictor.mask_fcn_logits", 4),
    )
    for kind in ("weight", "bias")
}


def modernise(state: State) -> State:
    """The same tensors under the names torchvision writes today.

    Raises:
        WeightsError: a tensor is there under both names.
    """
    return renamed(state, _RENAMES)


def preset_of(state: State) -> Preset:
    """Architecture and classes, read off the shapes; the rest is torchvision's default.

    Anchor sizes, input size and thresholds leave no trace in a state dict: where they differ from the
    default, pass them to `load_model`.

    Raises:
        WeightsError: these are not the keys of a torchvision Mask R-CNN.
    """
    shape = architecture_of(state)
    outputs = len(state["roi_heads.box_predictor.cls_score.weight"])
    ids, names = _classes(outputs)
    # torchvision sets the epsilon to zero where it loads its own COCO weights, of which there are only R-50
    # ones with frozen normalisation; fine-tuned descendants keep it. Anything else has PyTorch's default.
    published = shape["frozen_bn"] and shape["bottleneck"] and shape["blocks"] == (3, 4, 6, 3)
    published = published and (shape["trunk_widths"][3], shape["groups"]) == (512, 1)
    return Preset().replace(**shape, bn_eps=0.0 if published else 1e-5, category_ids=ids, categories=names)


def architecture_of(state: State) -> dict[str, Any]:
    """The fields of a preset that can be read off the shapes of tensors under torchvision's names.

    Raises:
        WeightsError: keys that this takes, or predictors, are missing or have other numbers of dimensions; all
            of them are named.
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
    check_dimensions(state, dict.fromkeys(convolutions, 4) | _box_head_dimensions(state) | _PREDICTORS)
    wide, grouped = state[inner[0]].shape[:2]
    return {
        "name": f"mask_rcnn_{'-'.join(map(str, blocks))}",
        "blocks": blocks,
        "trunk_channels": tuple(state[k].shape[0] for k in last),
        "trunk_widths": tuple(state[k].shape[0] for k in inner),
        "stem": state[stem].shape[0],
        "bottleneck": bottleneck,
        "groups": wide // grouped if bottleneck else 1,
        "frozen_bn": not any(k.startswith("backbone.body") and k.endswith("num_batches_tracked") for k in state),
        "fpn_channels": state[inner_block].shape[0],
        "fpn_norm": any(re.match(r"backbone\.fpn\.inner_blocks\.\d+\.1\.", k) for k in state),
        "rpn_convs": _count(state, r"rpn\.head\.conv\.(\d+)\.0\."),
        "mask_channels": tuple(state[k].shape[0] for k in masks),
        "mask_norm": any(re.match(r"roi_heads\.mask_head\.\d+\.1\.", k) for k in state),
        "mask_hidden": state[upsample].shape[1],
    } | _box_head(state)


def _box_head_dimensions(state: State) -> dict[str, int]:
    """The keys that `_box_head` takes, with their numbers of dimensions."""
    convs = _count(state, _BOX_CONV)
    return {f"roi_heads.box_head.{i}.0.weight": 4 for i in range(convs)} or {"roi_heads.box_head.fc6.weight": 2}


def _box_head(state: State) -> dict[str, Any]:
    """Two named linear layers, or a sequence of convolutions, a flattening and linear layers (V2)."""
    convs = _count(state, _BOX_CONV)
    if not convs:
        return {"box_hidden": state["roi_heads.box_head.fc6.weight"].shape[0]}
    return {
        "box_convs": tuple(state[f"roi_heads.box_head.{i}.0.weight"].shape[0] for i in range(convs)),
        "box_layers": _count(state, r"roi_heads\.box_head\.(\d+)\.(?:weight|bias)$"),
        "box_hidden": state["roi_heads.box_predictor.cls_score.weight"].shape[1],
    }


def _count(state: State, pattern: str) -> int:
    """How many members of a sequence have any tensor: one that lacks some is still there, so that they are named."""
    return len({match[1] for k in state if (match := re.match(pattern, k))})


def _classes(outputs: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Category ids and names of a box predictor with that many outputs, background included."""
    ids = tuple(range(1, outputs))
    if outputs == COCO_OUTPUTS:
        return ids, tuple(COCO_CLASSES.get(i, "N/A") for i in ids)
    return ids, tuple(f"class {i}" for i in ids)
