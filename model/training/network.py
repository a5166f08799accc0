"""The network to train: torchvision's Mask R-CNN with its losses, built from a `Preset`."""

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

from model.layers.resnet import ResNet
from model.preset import Preset


def build_torchvision(preset: Preset, **options: Any) -> TorchvisionMaskRCNN:
    """Builds torchvision's Mask R-CNN with the architecture of a preset. Its state dict has our checkpoint layout.

    Args:
        preset: either RPN design. torchvision itself has five levels and one sigmoid score; the other design is
            assembled from its parts.
        options: further arguments of torchvision's `MaskRCNN`, such as how many samples its losses take.
    """
    trunk = ResNet(preset)
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
    network.rpn.forward = _restrict_levels(network.rpn.forward, preset.rpn_levels)
    # Detectron's initialisation for this layer: mask probabilities start near 0.5, not saturated.
    nn.init.normal_(network.roi_heads.mask_predictor.mask_fcn_logits.weight, std=0.001)
    return network


class SoftmaxRpnHead(RPNHead):
    """torchvision's RPN head with two scores per anchor, (background, object), as in the paper.

    It returns their difference. The softmax over two scores is the sigmoid of their difference, so torchvision's
    binary cross-entropy on the difference equals the softmax loss.
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


def _restrict_levels(forward: Callable[..., Any], levels: int) -> Callable[..., Any]:
    """Wraps the forward of torchvision's RPN so that it sees only the finest `levels` maps."""

    def run(images: Any, features: dict[str, Tensor], targets: Any = None) -> Any:
        return forward(images, dict(list(features.items())[:levels]), targets)

    return run


def run_layers_in_bfloat16(network: TorchvisionMaskRCNN) -> None:
    """Makes a network compute its layers in bfloat16 and everything between them in float32, in place.

    Boxes, deltas and pooling need more than the 8 bits of bfloat16's significand. With autocast around the whole
    network, mask AP falls by about one point.
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
            return _to_float32(forward(*args, **kwargs))

    return run


def _to_float32(value: Any) -> Any:
    """Converts every tensor in nested lists, tuples and dicts to float32."""
    if isinstance(value, Tensor):
        return value.float()
    if isinstance(value, dict):
        return type(value)((k, _to_float32(v)) for k, v in value.items())
    return type(value)(_to_float32(v) for v in value)


class ExponentialMovingAverage:
    """Exponential moving average of a network's parameters and buffers.

    The average of the last few hundred steps is better than any single one, above all after a short schedule
    (Polyak averaging). The decay warms up as in TensorFlow's `ExponentialMovingAverage`.

    Attributes:
        state: the averaged state dict.
        steps: number of updates so far.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.state = {k: v.detach().clone() for k, v in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Adds the network's present weights to the average. Counters are copied."""
        self.steps += 1
        weight = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        for key, value in network.state_dict().items():
            if value.is_floating_point():
                self.state[key].lerp_(value, weight)
            else:
                self.state[key].copy_(value)
