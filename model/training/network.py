"""The network to train: torchvision's Mask R-CNN, its losses included, in the shape a `Preset` states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead

from model.layers.resnet import trunk_of
from model.preset import Preset


def build_torchvision(preset: Preset, **options: Any) -> TorchvisionMaskRCNN:
    """torchvision's own Mask R-CNN of this shape; its state dict is our checkpoint layout.

    Args:
        preset: either RPN design; torchvision has five levels and one sigmoid score, the other is
            made of its parts.
        options: passed on to torchvision's `MaskRCNN` (sampling numbers of its losses).
    """
    trunk = trunk_of(preset)
    stages = {f"layer{i + 1}": str(i) for i in range(4)}
    outputs, channels = preset.num_outputs, preset.fpn_channels
    network = TorchvisionMaskRCNN(
        BackboneWithFPN(trunk, stages, list(preset.trunk_channels), channels),
        rpn_anchor_generator=AnchorGenerator(preset.anchor_sizes, preset.anchor_ratios),
        rpn_head=_rpn_head(preset),
        box_head=TwoMLPHead(channels * preset.box_roi_size**2, preset.box_hidden),
        box_predictor=FastRCNNPredictor(preset.box_hidden, outputs),
        mask_head=MaskRCNNHeads(channels, preset.mask_channels, 1),
        mask_predictor=MaskRCNNPredictor(preset.mask_channels[-1], preset.mask_hidden, outputs),
        min_size=preset.min_size,
        max_size=preset.max_size,
        image_mean=list(preset.mean),
        image_std=list(preset.std),
        rpn_pre_nms_top_n_test=preset.rpn_pre_nms,
        rpn_post_nms_top_n_test=preset.rpn_post_nms,
        rpn_nms_thresh=preset.rpn_nms,
        box_score_thresh=preset.min_score,
        box_nms_thresh=preset.nms,
        box_detections_per_img=preset.max_detections,
        **options,
    )
    network.rpn.forward = _on_levels(network.rpn.forward, preset.rpn_levels)
    # Detectron's start for this layer: masks begin undecided, not saturated.
    nn.init.normal_(network.roi_heads.mask_predictor.mask_fcn_logits.weight, std=0.001)
    return network


class SoftmaxRpnHead(RPNHead):
    """torchvision's head with two scores an anchor, (background, object), as the paper describes it.

    It returns their difference: a softmax over two is the sigmoid of it, so torchvision's binary
    cross-entropy on the difference is the softmax loss.
    """

    def __init__(self, channels: int, anchors: int) -> None:
        super().__init__(channels, anchors)
        self.cls_logits = nn.Conv2d(channels, anchors * 2, 1)
        nn.init.normal_(self.cls_logits.weight, std=0.01)
        self.cls_logits.bias.data.zero_()  # type: ignore[union-attr]

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Maps each level (B, C, H, W) to objectness (B, k, H, W) and deltas (B, 4k, H, W)."""
        logits, deltas = super().forward(x)
        return [pair[:, 1::2] - pair[:, 0::2] for pair in logits], deltas


def _rpn_head(preset: Preset) -> RPNHead:
    head = RPNHead if preset.rpn_scores == 1 else SoftmaxRpnHead
    return head(preset.fpn_channels, preset.anchors_per_location)


def _on_levels(forward: Callable[..., Any], levels: int) -> Callable[..., Any]:
    """torchvision's RPN, shown the finest `levels` maps only."""

    def run(images: Any, features: dict[str, Tensor], targets: Any = None) -> Any:
        return forward(images, dict(list(features.items())[:levels]), targets)

    return run


def in_bfloat16(network: TorchvisionMaskRCNN) -> None:
    """Runs the layers in bfloat16 and everything between them in float32.

    Boxes, deltas and pooling need more than bfloat16's 8 bits of mantissa: under a plain autocast of
    the whole network they get no more, and mask AP falls by about a point.
    """
    roi = network.roi_heads
    for module in (
        network.backbone,
        network.rpn.head,
        roi.box_head,
        roi.box_predictor,
        roi.mask_head,
        roi.mask_predictor,
    ):
        module.forward = _autocast(module.forward)


def _autocast(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return _float(forward(*args, **kwargs))

    return run


def _float(value: Any) -> Any:
    """Every tensor in lists, tuples and dicts as float32."""
    if isinstance(value, Tensor):
        return value.float()
    if isinstance(value, dict):
        return type(value)((k, _float(v)) for k, v in value.items())
    return type(value)(_float(v) for v in value)


class Average:
    """Exponential moving average of a network's parameters and buffers.

    The average of the last few hundred steps is better than any one of them, most of all for a short
    schedule (Polyak averaging; the warm-up of the decay is TensorFlow's `ExponentialMovingAverage`).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.state = {k: v.detach().clone() for k, v in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Takes in the network as it is after one more step."""
        self.steps += 1
        weight = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        for key, value in network.state_dict().items():
            if value.is_floating_point():
                self.state[key].lerp_(value, weight)
            else:
                self.state[key].copy_(value)
