"""Describes a checkpoint: architecture, conventions, thresholds and classes, as one frozen record.

Families of public checkpoints differ in dozens of small rules, for example where anchors are rounded or how a
box is decoded. Every rule is a field here. The network reads the field and never asks which family a checkpoint
came from. A `Preset` is stored as JSON in the checkpoint's metadata.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any, get_args, get_origin, get_type_hints

from model.errors import PresetError

Floats = tuple[float, ...]
Ints = tuple[int, ...]

CHOICES = {  # fields that take one of a few strings
    "anchor_stride": ("grid", "nominal"),
    "rpn_rank": ("probability", "logit"),
    "mask_paste": ("torchvision", "detectron2"),
    "resize_rounding": ("down", "nearest", "detectron2"),
    "resize": ("float", "rounded", "pillow"),
}


@dataclass(frozen=True)
class Preset:
    """Everything about a Mask R-CNN that is not a weight. The defaults are torchvision's `maskrcnn_resnet50_fpn`.

    Lengths are pixels of the network's input. Anchor `sizes` are side lengths of the square anchor of equal
    area, and `ratios` are height / width.
    """

    name: str = "maskrcnn_resnet50_fpn"
    family: str = "torchvision"

    # Backbone (model.layers.resnet)
    blocks: Ints = (3, 4, 6, 3)
    trunk_channels: Ints = (256, 512, 1024, 2048)
    trunk_widths: Ints = (64, 128, 256, 512)
    stem: int = 64
    bottleneck: bool = True
    groups: int = 1
    stride_on_1x1: bool = False
    frozen_bn: bool = False
    bn_eps: float = 1e-5

    # FPN
    fpn_channels: int = 256
    fpn_norm: bool = False  # batch normalisation after each convolution, which then has no bias

    # Anchors and RPN. The stride is input size // grid size in torchvision ("grid"), or 4 << level ("nominal").
    anchor_sizes: tuple[Floats, ...] = ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
    anchor_ratios: tuple[Floats, ...] = ((0.5, 1.0, 2.0),) * 5
    anchor_rounding: bool = True
    anchor_stride: str = "grid"
    rpn_levels: int = 5  # proposals come from the finest `rpn_levels` maps; 1 is the design of the 2017 paper
    rpn_scores: int = 1  # 1: a sigmoid score; 2: a softmax over (background, object)
    rpn_convs: int = 1
    rpn_rank: str = "probability"  # what NMS sorts by; "logit" separates scores whose probabilities round to 1
    rpn_pre_nms: int = 1000  # per level
    rpn_post_nms: int = 1000  # per image
    rpn_nms: float = 0.7
    rpn_min_size: float = 1e-3
    rpn_box_weights: Floats = (1.0, 1.0, 1.0, 1.0)

    # RoIs (Lin et al. 2017, arXiv:1612.03144, equation 1, and He et al. 2017, arXiv:1703.06870)
    roi_canonical_level: int = 4
    roi_canonical_size: float = 224.0
    roi_level_eps: float = 1e-6  # added to the level before it is rounded down
    roi_ratio_eps: float = 0.0  # added to sqrt(w h) / canonical size before the logarithm
    roi_aligned: bool = False
    roi_sampling: int = 2  # samples along each side of a cell; 0: adaptive
    box_roi_size: int = 7
    mask_roi_size: int = 14
    box_convs: Ints = ()  # channels of 3x3 convolutions with batch normalisation before the linear layers
    box_layers: int = 2  # linear layers
    box_hidden: int = 1024
    box_weights: Floats = (10.0, 10.0, 5.0, 5.0)
    box_clamp: float = math.log(1000.0 / 16.0)  # upper bound of dw and dh: a 16 px anchor grows to 1000 px (Detectron)
    box_clamp_low: float = -1e4  # lower bound of dw and dh; exp() of the default is 0
    mask_channels: Ints = (256, 256, 256, 256)
    mask_norm: bool = False
    mask_hidden: int = 256
    mask_paste: str = "torchvision"  # a rule of `model.masks.paste_rules`

    # Detections
    min_score: float = 0.05
    nms: float = 0.5
    max_detections: int = 100
    min_box: float = 1e-2

    # Classes: `category_ids[i]` and `categories[i]` belong to output i + 1 of the network; output 0 is background.
    category_ids: Ints = ()
    categories: tuple[str, ...] = ()

    # Input
    min_size: int = 800
    max_size: int = 1333
    resize_rounding: str = "down"  # how a resized side becomes whole pixels; "detectron2": nearest, after two steps
    resize: str = "float"  # bilinear; "rounded": bilinear in whole grey levels; "pillow": Pillow's, antialiased
    mean: Floats = (0.485, 0.456, 0.406)  # of RGB pixels in 0..1 (ImageNet)
    std: Floats = (0.229, 0.224, 0.225)
    pad_multiple: int = 32

    def __post_init__(self) -> None:
        if len(self.anchor_sizes) != len(self.anchor_ratios):
            raise PresetError(
                f"anchor_sizes has {len(self.anchor_sizes)} levels, anchor_ratios {len(self.anchor_ratios)}"
            )
        if len({len(s) * len(r) for s, r in zip(self.anchor_sizes, self.anchor_ratios, strict=True)}) > 1:
            raise PresetError("every level must have the same number of anchors per location")
        if not 1 <= self.rpn_levels <= 5 or len(self.anchor_sizes) != self.rpn_levels:
            raise PresetError(f"rpn_levels={self.rpn_levels} must be 1 to 5 and equal the number of anchor levels")
        if self.rpn_scores not in (1, 2):
            raise PresetError("rpn_scores must be 1 (sigmoid) or 2 (softmax)")
        for field, values in CHOICES.items():
            if getattr(self, field) not in values:
                raise PresetError(f"{field} must be {' or '.join(map(repr, values))}")
        if self.rpn_convs < 1 or self.box_layers < 1:
            raise PresetError("rpn_convs and box_layers must be at least 1")
        if len(self.category_ids) != len(self.categories):
            raise PresetError("category_ids and categories must have the same length")
        if len(self.mean) != 3 or len(self.std) != 3 or 0 in self.std:
            raise PresetError("mean and std must have three values each, and no std may be 0")
        if self.pad_multiple < 32 or self.pad_multiple % 32 or self.max_size < 1:
            raise PresetError("pad_multiple must be a multiple of 32, the coarsest stride; max_size must be at least 1")
        if not 0 <= self.min_score <= 1 or self.max_detections < 1 or self.min_size < 1:
            raise PresetError("min_score must be in 0..1; max_detections and min_size must be at least 1")

    @property
    def anchors_per_location(self) -> int:
        """The number of anchors at each location, k in the paper."""
        return len(self.anchor_sizes[0]) * len(self.anchor_ratios[0])

    @property
    def num_outputs(self) -> int:
        """The number of classes of the box and mask predictors, including the background."""
        return len(self.category_ids) + 1

    def replace(self, /, **overrides: Any) -> Preset:
        """Returns a copy with some fields changed.

        Raises:
            PresetError: a field is unknown, a value has another type, or values do not fit together.
        """
        known = {f.name for f in dataclasses.fields(self)}
        if unknown := sorted(set(overrides) - known):
            raise PresetError(f"unknown preset field {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        values = {k: _lists_to_tuples(v) for k, v in overrides.items()}
        hints = get_type_hints(Preset)
        for name, value in values.items():
            if not _has_type(value, hints[name]):
                valid = getattr(Preset(), name)
                raise PresetError(f"preset field {name} cannot be {value!r}; a valid value is {valid!r}")
        return dataclasses.replace(self, **values)

    def to_json(self) -> str:
        """Returns the record as JSON, for a checkpoint's metadata."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Preset:
        """Reads a record that `to_json` wrote. Missing fields take their defaults.

        Raises:
            PresetError: the text is not JSON, or a newer version wrote fields that this one does not know.
        """
        try:
            fields = json.loads(text)
        except json.JSONDecodeError as error:
            raise PresetError(f"preset is not JSON: {error}") from None
        if not isinstance(fields, dict):
            raise PresetError(f"preset is not a JSON object but {text[:40]!r}")
        return cls().replace(**fields)


def _has_type(value: Any, hint: Any) -> bool:
    """Returns whether a value has a field's type: bool, int, float, str, or nested tuples of them."""
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_has_type(v, get_args(hint)[0]) for v in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is hint


def _lists_to_tuples(value: Any) -> Any:
    """Converts lists to tuples at any depth, because JSON has no tuples."""
    return tuple(_lists_to_tuples(v) for v in value) if isinstance(value, list | tuple) else value
