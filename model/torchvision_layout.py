"""torchvision's state dicts: old key names made new, and the preset read off the shapes."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from model.errors import WeightsError
from model.layouts import COCO_CLASSES, COCO_OUTPUTS
from model.preset import Preset

_RENAMES = (
    (re.compile(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$"), r"\1.0.\2"),
    (re.compile(r"^rpn\.head\.conv\.(weight|bias)$"), r"rpn.head.conv.0.0.\1"),
)
_OLD_MASK = re.compile(r"^roi_heads\.mask_head\.mask_fcn(\d+)\.(weight|bias)$")


def modernise(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under the names torchvision writes today."""
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in _RENAMES:
            key = pattern.sub(replacement, key)
        if match := _OLD_MASK.match(key):
            key = f"roi_heads.mask_head.{int(match[1]) - 1}.0.{match[2]}"
        renamed[key] = value
    return renamed


def preset_of(state: dict[str, Tensor]) -> Preset:
    """Architecture and classes, read off the shapes; the rest is torchvision's default.

    Anchor sizes, input size and thresholds leave no trace in a state dict: where they differ from the
    default, pass them to `load_model`.

    Raises:
        WeightsError: these are not the keys of a torchvision Mask R-CNN.
    """
    shape = architecture_of(state)
    outputs = len(_Complete(state)["roi_heads.box_predictor.cls_score.weight"])
    ids, names = _classes(outputs)
    # torchvision sets the epsilon to zero where it loads its own COCO weights, of which there are only R-50
    # ones with frozen normalisation; fine-tuned descendants keep it. Anything else has PyTorch's default.
    published = shape["frozen_bn"] and shape["bottleneck"] and shape["blocks"] == (3, 4, 6, 3)
    published = published and (shape["trunk_widths"][3], shape["groups"]) == (512, 1)
    return Preset().replace(**shape, bn_eps=0.0 if published else 1e-5, category_ids=ids, categories=names)


def architecture_of(state: dict[str, Tensor]) -> dict[str, Any]:
    """The fields of a preset that can be read off the shapes of tensors under torchvision's names.

    Raises:
        WeightsError: these are not the keys of a Mask R-CNN with an FPN.
    """
    wanted = ("backbone.body.conv1.weight", "rpn.head.cls_logits.weight", "roi_heads.box_predictor.cls_score.weight")
    if missing := [k for k in wanted if k not in state]:
        raise WeightsError(
            f"not a torchvision Mask R-CNN with an FPN: no {', '.join(missing)}; "
            f"its keys begin {', '.join(sorted(state)[:3])}"
        )
    state = _Complete(state)
    blocks = tuple(_count(state, rf"^backbone\.body\.layer{s}\.(\d+)\.conv1\.weight$") for s in (1, 2, 3, 4))
    bottleneck = "backbone.body.layer1.0.conv3.weight" in state
    last = "conv3" if bottleneck else "conv2"
    inner = [state[f"backbone.body.layer{s}.0.conv2.weight"].shape for s in (1, 2, 3, 4)]
    masks = _count(state, r"^roi_heads\.mask_head\.(\d+)\.0\.weight$")
    return {
        "name": f"mask_rcnn_{'-'.join(map(str, blocks))}",
        "blocks": blocks,
        "trunk_channels": tuple(state[f"backbone.body.layer{s}.0.{last}.weight"].shape[0] for s in (1, 2, 3, 4)),
        "trunk_widths": tuple(shape[0] for shape in inner),
        "stem": state["backbone.body.conv1.weight"].shape[0],
        "bottleneck": bottleneck,
        "groups": inner[0][0] // inner[0][1] if bottleneck else 1,
        "frozen_bn": not any(k.startswith("backbone.body") and k.endswith("num_batches_tracked") for k in state),
        "fpn_channels": state["backbone.fpn.inner_blocks.0.0.weight"].shape[0],
        "fpn_norm": "backbone.fpn.inner_blocks.0.1.weight" in state,
        "rpn_convs": _count(state, r"^rpn\.head\.conv\.(\d+)\.0\.weight$"),
        "mask_channels": tuple(state[f"roi_heads.mask_head.{i}.0.weight"].shape[0] for i in range(masks)),
        "mask_norm": "roi_heads.mask_head.0.1.weight" in state,
        "mask_hidden": state["roi_heads.mask_predictor.conv5_mask.weight"].shape[1],
    } | _box_head(state)


def _box_head(state: dict[str, Tensor]) -> dict[str, Any]:
    """Two named linear layers, or a sequence of convolutions, a flattening and linear layers (V2)."""
    if not any(k.startswith("roi_heads.box_head.0.0.") for k in state):
        return {"box_hidden": state["roi_heads.box_head.fc6.weight"].shape[0]}
    convs = _count(state, r"^roi_heads\.box_head\.(\d+)\.0\.weight$")
    linear = sorted(int(k.split(".")[2]) for k in state if re.match(r"^roi_heads\.box_head\.\d+\.weight$", k))
    return {
        "box_convs": tuple(state[f"roi_heads.box_head.{i}.0.weight"].shape[0] for i in range(convs)),
        "box_layers": len(linear),
        "box_hidden": state["roi_heads.box_predictor.cls_score.weight"].shape[1],
    }


class _Complete(dict[str, Tensor]):
    """A state dict that says which key it lacks."""

    def __missing__(self, key: str) -> Tensor:
        raise WeightsError(f"no {key} in this state dict: not a whole torchvision Mask R-CNN")


def _count(state: dict[str, Tensor], pattern: str) -> int:
    return sum(bool(re.match(pattern, k)) for k in state)


def _classes(outputs: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Category ids and names of a box predictor with that many outputs, background included."""
    ids = tuple(range(1, outputs))
    if outputs == COCO_OUTPUTS:
        return ids, tuple(COCO_CLASSES.get(i, "N/A") for i in ids)
    return ids, tuple(f"class {i}" for i in ids)
