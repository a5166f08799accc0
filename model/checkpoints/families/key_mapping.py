"""Steps that the conversions of foreign checkpoints share: renaming keys, reordering classes, BGR to RGB."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from model.checkpoints.families.coco_categories import COCO_CLASSES
from model.errors import WeightsError

KeyRule = tuple[re.Pattern[str], str]  # pattern of a key, replacement as for `re.Match.expand`
State = dict[str, Tensor]


def rename_keys(state: State, rules: Iterable[KeyRule], ignored: re.Pattern[str] | None = None) -> State:
    """Renames the keys of a state dict. The first rule that matches a key applies.

    A key that matches no rule keeps its name. The check against the network then reports it as unknown.

    Args:
        state: tensors by their names in the file.
        rules: patterns and replacements.
        ignored: keys to drop because they hold no weights (anchors, pixel statistics).

    Returns:
        The same tensors under their new names.

    Raises:
        WeightsError: Two tensors would have the same name.
    """
    result = {}
    for key, value in state.items():
        if ignored and ignored.match(key):
            continue
        for pattern, replacement in rules:
            if match := pattern.match(key):
                key = match.expand(replacement)
                break
        if key in result:
            raise WeightsError(f"two tensors of the checkpoint are both {key}")
        result[key] = value
    return result


def check_dimensions(state: State, dimensions: Mapping[str, int]) -> None:
    """Checks that tensors exist and have the expected number of dimensions.

    Args:
        state: tensors under torchvision's names.
        dimensions: number of dimensions by key.

    Raises:
        WeightsError: Tensors are missing, empty or have other dimensions. The message names all of them.
    """
    problems = [f"no {key}" for key in dimensions if key not in state]
    problems += [
        f"{key} is {tuple(state[key].shape)}, expected {number} dimensions"
        for key, number in dimensions.items()
        if key in state and (state[key].ndim != number or 0 in state[key].shape)
    ]
    if problems:
        raise WeightsError(
            f"not a whole Mask R-CNN with an FPN (keys as torchvision names them): {'; '.join(problems)}; "
            f"the keys begin {', '.join(sorted(state)[:3])}"
        )


def move_background_first(state: State) -> State:
    """Reorders heads whose background class comes last so that it comes first, as in torchvision.

    The last row of the class logits becomes the first. Boxes and masks have no background in such heads, so
    they get rows of zeros for it.

    Args:
        state: tensors under torchvision's names, with all predictors (`infer_architecture` has checked them).

    Returns:
        A new state dict. Class logits stay (C + 1, ...), box deltas grow from (4C, ...) to (4C + 4, ...), and
        masks from (C, ...) to (C + 1, ...).

    Raises:
        WeightsError: Boxes or masks are class-agnostic.
    """
    box, mask = "roi_heads.box_predictor", "roi_heads.mask_predictor.mask_fcn_logits"
    result = dict(state)
    for kind in ("weight", "bias"):
        logits, deltas, masks = (state[f"{k}.{kind}"] for k in (f"{box}.cls_score", f"{box}.bbox_pred", mask))
        classes = len(logits) - 1
        if len(deltas) != 4 * classes or len(masks) != classes:
            raise WeightsError(
                f"{classes} classes and background, but {len(deltas)} box deltas and {len(masks)} masks: "
                "class-agnostic heads are not supported"
            )
        result[f"{box}.cls_score.{kind}"] = torch.cat([logits[-1:], logits[:-1]])
        result[f"{box}.bbox_pred.{kind}"] = torch.cat([torch.zeros_like(deltas[:4]), deltas])
        result[f"{mask}.{kind}"] = torch.cat([torch.zeros_like(masks[:1]), masks])
    return result


def convert_bgr_to_rgb(state: State) -> State:
    """Makes a network that was trained on BGR take RGB by reversing the input channels of the first convolution."""
    key = "backbone.body.conv1.weight"
    return state | {key: state[key].flip(1)}


def class_fields(number: int) -> dict[str, tuple[int, ...] | tuple[str, ...]]:
    """Returns the class fields of a preset: COCO's ids and names for 80 classes, else numbers from 1.

    Args:
        number: number of classes without the background.
    """
    names = COCO_CLASSES if number == len(COCO_CLASSES) else {i: f"class {i}" for i in range(1, number + 1)}
    return {"category_ids": tuple(names), "categories": tuple(names.values())}
