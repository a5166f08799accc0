"""What the importers of foreign checkpoints share: renaming that loses nothing, and class order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from model.checkpoints.coco_categories import COCO_CLASSES
from model.errors import WeightsError

Rename = tuple[re.Pattern[str], str]
State = dict[str, Tensor]


def renamed(state: State, renames: Iterable[Rename], ignored: re.Pattern[str] | None = None) -> State:
    """The tensors under other names; a key that no rule knows keeps its own, so that it is reported.

    Args:
        ignored: keys that hold no weights (anchors, pixel statistics).

    Raises:
        WeightsError: two tensors would have one name.
    """
    result = {}
    for key, value in state.items():
        if ignored and ignored.match(key):
            continue
        for pattern, replacement in renames:
            if match := pattern.match(key):
                key = match.expand(replacement)
                break
        if key in result:
            raise WeightsError(f"two tensors of the checkpoint are both {key}")
        result[key] = value
    return result


def check_dimensions(state: State, dimensions: Mapping[str, int]) -> None:
    """Whether tensors are there, with so many dimensions.

    Raises:
        WeightsError: names every one that is not.
    """
    problems = [f"no {key}" for key in dimensions if key not in state]
    problems += [
        f"{key} is {tuple(state[key].shape)}, expected {number} dimensions"
        for key, number in dimensions.items()
        if key in state and (state[key].ndim != number or 0 in state[key].shape)
    ]
    if problems:
        raise WeightsError(
            f"not a whole Mask R-CNN with an FPN, its keys named as torchvision names them: {'; '.join(problems)}; "
            f"the keys begin {', '.join(sorted(state)[:3])}"
        )


def background_first(state: State) -> State:
    """Heads whose classes end with the background, or have none, as torchvision has them: background first.

    Class logits: the last row becomes the first. Boxes and masks have no background: they get rows of zeros.

    Args:
        state: under torchvision's names, with all predictors (`architecture_of` has looked).

    Raises:
        WeightsError: boxes or masks are not of each class.
    """
    box, mask = "roi_heads.box_predictor", "roi_heads.mask_predictor.mask_fcn_logits"
    result = dict(state)
    for kind in ("weight", "bias"):
        logits, deltas, masks = (state[f"{k}.{kind}"] for k in (f"{box}.cls_score", f"{box}.bbox_pred", mask))
        classes = len(logits) - 1
        if len(deltas) != 4 * classes or len(masks) != classes:
            raise WeightsError(
                f"{classes} classes and background, but {len(deltas)} box deltas and {len(masks)} masks: "
                "heads that do not tell classes apart are not supported"
            )
        result[f"{box}.cls_score.{kind}"] = torch.cat([logits[-1:], logits[:-1]])
        result[f"{box}.bbox_pred.{kind}"] = torch.cat([torch.zeros_like(deltas[:4]), deltas])
        result[f"{mask}.{kind}"] = torch.cat([torch.zeros_like(masks[:1]), masks])
    return result


def rgb_first(state: State) -> State:
    """A network that takes BGR, made to take RGB: the input channels of its first convolution turned round."""
    key = "backbone.body.conv1.weight"
    return state | {key: state[key].flip(1)}


def classes(number: int) -> dict[str, tuple[int, ...] | tuple[str, ...]]:
    """Preset fields for that many classes without background: COCO's if there are 80, else numbered from 1."""
    named = COCO_CLASSES if number == len(COCO_CLASSES) else {i: f"class {i}" for i in range(1, number + 1)}
    return {"category_ids": tuple(named), "categories": tuple(named.values())}
