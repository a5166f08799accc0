"""What a checkpoint is: architecture, conventions, thresholds and classes, as one frozen record.

Families of public checkpoints differ in dozens of small rules (where anchors are rounded, which class
is background, how a box is decoded). All of them are fields here, and the network reads the field: no
code asks which family a checkpoint came from. A `Preset` travels as JSON in the checkpoint's metadata.
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


CHOICES = {
    "anchor_stride": ("grid", "nominal"),
    "rpn_rank": ("probability", "logit"),
    "mask_paste": ("torchvision", "detectron2"),
    "resize_rounding": ("down", "nearest", "detectron2"),
    "resize": ("float", "rounded", "pillow"),
}


@dataclass(frozen=True)
class Preset:
    """Everything about a Mask R-CNN that is not a weight. Defaults: torchvision's `maskrcnn_resnet50_fpn`.

    Lengths are pixels of the network's input unless a field says otherwise; anchor `sizes` are side
    lengths of the square anchor of equal area, `ratios` are height / width.
    """

    name: str = "maskrcnn_resnet50_fpn"
    family: str = "torchvision"

    # Trunk (model.layers.resnet)
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
    fpn_norm: bool = False  # batch normalisation after each of its convolutions, which then have no bias

    # Anchors and RPN. "grid" is torchvision's stride (image // grid), "nominal" the level's own.
    anchor_sizes: tuple[Floats, ...] = ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
    anchor_ratios: tuple[Floats, ...] = ((0.5, 1.0, 2.0),) * 5
    anchor_rounding: bool = True
    anchor_stride: str = "grid"
    rpn_levels: int = 5  # proposals come from the finest `rpn_levels` maps; 1 is the 2017 paper's figure
    rpn_scores: int = 1  # 1: a sigmoid objectness; 2: (background, object) through a softmax
    rpn_convs: int = 1
    rpn_rank: str = "probability"  # what NMS sorts by; "logit" still tells scores apart that round to one
    rpn_pre_nms: int = 1000  # a level
    rpn_post_nms: int = 1000  # an image
    rpn_nms: float = 0.7
    rpn_min_size: float = 1e-3
    rpn_box_weights: Floats = (1.0, 1.0, 1.0, 1.0)

    # RoIs (Lin et al. 2017, arXiv:1612.03144, equation 1, and He et al. 2017, arXiv:1703.06870)
    roi_canonical_level: int = 4
    roi_canonical_size: float = 224.0
    roi_level_eps: float = 1e-6  # added to the level before it is cut to an integer
    roi_ratio_eps: float = 0.0  # added to sqrt(w h) / canonical size before the logarithm
    roi_aligned: bool = False
    roi_sampling: int = 2  # 0: adaptive
    box_roi_size: int = 7
    mask_roi_size: int = 14
    box_convs: Ints = ()  # channels of 3x3 convolutions with batch normalisation before the linear layers
    box_layers: int = 2  # linear layers
    box_hidden: int = 1024
    box_weights: Floats = (10.0, 10.0, 5.0, 5.0)
    box_clamp: float = math.log(1000.0 / 16.0)  # an object at most 1000 px from a 16 px anchor (Detectron)
    box_clamp_low: float = -1e4  # of the same logarithms; exp() of the default is 0
    mask_channels: Ints = (256, 256, 256, 256)
    mask_norm: bool = False
    mask_hidden: int = 256
    mask_paste: str = "torchvision"  # a rule of `model.masks.paste_rules`

    # Detections
    min_score: float = 0.05
    nms: float = 0.5
    max_detections: int = 100
    min_box: float = 1e-2

    # Classes: `category_ids[i]` and `categories[i]` belong to the network's output i + 1 (0: background)
    category_ids: Ints = ()
    categories: tuple[str, ...] = ()

    # Input
    min_size: int = 800
    max_size: int = 1333
    resize_rounding: str = "down"  # of a resized side to pixels; or "nearest"; "detectron2": nearest, scaled twice
    resize: str = "float"  # bilinear between pixels; "rounded" to whole grey levels; "pillow": its own, antialiased
    mean: Floats = (0.485, 0.456, 0.406)  # of pixels in 0..1, RGB (ImageNet)
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
            raise PresetError(f"rpn_levels={self.rpn_levels} needs as many anchor levels, 1 to 5")
        if self.rpn_scores not in (1, 2):
            raise PresetError("rpn_scores is 1 (sigmoid) or 2 (softmax)")
        for field, values in CHOICES.items():
            if getattr(self, field) not in values:
                raise PresetError(f"{field} is {' or '.join(map(repr, values))}")
        if self.rpn_convs < 1 or self.box_layers < 1:
            raise PresetError("rpn_convs and box_layers are at least 1")
        if len(self.category_ids) != len(self.categories):
            raise PresetError("category_ids and categories must be of one length")
        if len(self.mean) != 3 or len(self.std) != 3 or 0 in self.std:
            raise PresetError("mean and std have three values each, and no std is 0")
        if self.pad_multiple < 32 or self.pad_multiple % 32 or self.max_size < 1:
            raise PresetError("pad_multiple is a multiple of 32, the trunk's coarsest stride; max_size is at least 1")
        if not 0 <= self.min_score <= 1 or self.max_detections < 1 or self.min_size < 1:
            raise PresetError("min_score is in 0..1; max_detections and min_size are at least 1")

    @property
    def anchors_per_location(self) -> int:
        """k of the paper."""
        return len(self.anchor_sizes[0]) * len(self.anchor_ratios[0])

    @property
    def num_outputs(self) -> int:
        """Classes of the box and mask predictors, background included."""
        return len(self.category_ids) + 1

    def replace(self, /, **overrides: Any) -> Preset:
        """A copy with some fields changed.

        Raises:
            PresetError: an unknown field, a value of another type, or values that do not fit together.
        """
        known = {f.name for f in dataclasses.fields(self)}
        if unknown := sorted(set(overrides) - known):
            raise PresetError(f"unknown preset field {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        values = {k: _tupled(v) for k, v in overrides.items()}
        hints = get_type_hints(Preset)
        for name, value in values.items():
            if not _is(value, hints[name]):
                raise PresetError(f"preset field {name} cannot be {value!r}; it is like {getattr(Preset(), name)!r}")
        return dataclasses.replace(self, **values)

    def to_json(self) -> str:
        """The record as JSON, for a checkpoint's metadata."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Preset:
        """The record back from `to_json`; fields it lacks take their defaults.

        Raises:
            PresetError: not JSON, or made by a newer version with fields this one does not know.
        """
        try:
            fields = json.loads(text)
        except json.JSONDecodeError as error:
            raise PresetError(f"preset is not JSON: {error}") from None
        if not isinstance(fields, dict):
            raise PresetError(f"preset is not a JSON object but {text[:40]!r}")
        return cls().replace(**fields)


def _is(value: Any, hint: Any) -> bool:
    """Whether a value is of a field's type: bool, int, float, str, or a tuple of them at any depth."""
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_is(v, get_args(hint)[0]) for v in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is hint


def _tupled(value: Any) -> Any:
    """Lists (JSON has no tuples) as tuples, at any depth."""
    return tuple(_tupled(v) for v in value) if isinstance(value, list | tuple) else value
