"""The two heads of Mask R-CNN (He et al. 2017, arXiv:1703.06870): class and box, and one mask per class."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.preset import Preset


class BoxHead(nn.Module):
    """Two fully connected layers on the flattened RoI."""

    def __init__(self, channels: int, side: int, hidden: int) -> None:
        super().__init__()
        self.side = side
        self.fc6 = nn.Linear(channels * side**2, hidden)
        self.fc7 = nn.Linear(hidden, hidden)

    def forward(self, pooled: Tensor) -> Tensor:
        """Maps (R, C, 7, 7) to (R, hidden)."""
        return F.relu(self.fc7(F.relu(self.fc6(pooled.flatten(1)))))


class BoxPredictor(nn.Module):
    """Class logits and one box regression per class."""

    def __init__(self, hidden: int, outputs: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(hidden, outputs)
        self.bbox_pred = nn.Linear(hidden, outputs * 4)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (R, hidden) to logits (R, outputs) and deltas (R, outputs, 4); output 0 is background."""
        return self.cls_score(hidden), self.bbox_pred(hidden).unflatten(1, (-1, 4))


class MaskPredictor(nn.Module):
    """2x upsampling by a transposed convolution, then a 1x1 convolution: one mask per class."""

    def __init__(self, in_channels: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.conv5_mask = nn.ConvTranspose2d(in_channels, hidden, 2, 2)
        self.mask_fcn_logits = nn.Conv2d(hidden, outputs, 1)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Maps (N, C, 14, 14) and labels int64 (N,) to logits (N, 28, 28) of the labelled classes."""
        logits = self.mask_fcn_logits(F.relu(self.conv5_mask(features)))
        return logits[torch.arange(len(labels), device=labels.device), labels]


def conv_layers(in_channels: int, channels: tuple[int, ...], bn_eps: float | None) -> list[nn.Sequential]:
    """Builds 3x3 convolutions with ReLU.

    Args:
        bn_eps: epsilon of a batch normalisation before each ReLU, whose convolution then has no bias; None for
            no normalisation.
    """
    layers = []
    for out in channels:
        conv = nn.Conv2d(in_channels, out, 3, padding=1, bias=bn_eps is None)
        norm = [] if bn_eps is None else [nn.BatchNorm2d(out, eps=bn_eps)]
        layers.append(nn.Sequential(conv, *norm, nn.ReLU(inplace=True)))
        in_channels = out
    return layers


def box_head(preset: Preset) -> nn.Module:
    """Builds the layers before the box predictor, named as in torchvision's checkpoints.

    The first version has two linear layers (`fc6`, `fc7`). The second (V2) is a sequence: convolutions (`0.0`,
    ...), a flattening, then linear layers with ReLU (`5`, ... after four convolutions).
    """
    side, hidden = preset.box_roi_size, preset.box_hidden
    if not preset.box_convs and preset.box_layers == 2:
        return BoxHead(preset.fpn_channels, side, hidden)
    layers: list[nn.Module] = [*conv_layers(preset.fpn_channels, preset.box_convs, preset.bn_eps), nn.Flatten()]
    features = (preset.box_convs or (preset.fpn_channels,))[-1] * side**2
    for _ in range(preset.box_layers):
        layers += [nn.Linear(features, hidden), nn.ReLU(inplace=True)]
        features = hidden
    return nn.Sequential(*layers)


def roi_heads(preset: Preset) -> nn.ModuleDict:
    """Builds all layers that work on RoIs, named as in torchvision's checkpoints."""
    channels = preset.fpn_channels
    return nn.ModuleDict(
        OrderedDict(
            box_head=box_head(preset),
            box_predictor=BoxPredictor(preset.box_hidden, preset.num_outputs),
            mask_head=nn.Sequential(
                *conv_layers(channels, preset.mask_channels, preset.bn_eps if preset.mask_norm else None)
            ),
            mask_predictor=MaskPredictor(preset.mask_channels[-1], preset.mask_hidden, preset.num_outputs),
        )
    )
