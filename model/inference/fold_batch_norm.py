"""Folds batch normalisation into the convolution before it: at inference both are one affine map."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from model.layers.resnet import BasicBlock, Bottleneck, ResNet
from model.layers.torchvision_ops import torchvision_ops


def fold_batch_norm(network: nn.Module) -> None:
    """Folds every batch normalisation of a network, in place; the folded layers become identities."""
    norms = nn.BatchNorm2d, torchvision_ops().FrozenBatchNorm2d
    for module in list(network.modules()):
        if isinstance(module, ResNet | BasicBlock | Bottleneck):
            for i in (1, 2, 3):
                if hasattr(module, f"conv{i}"):
                    setattr(module, f"conv{i}", _folded(getattr(module, f"conv{i}"), getattr(module, f"bn{i}")))
                    setattr(module, f"bn{i}", nn.Identity())
        elif isinstance(module, nn.Sequential) and len(module) > 1 and isinstance(module[1], norms):
            module[0], module[1] = _folded(module[0], module[1]), nn.Identity()


@torch.no_grad()
def _folded(conv: nn.Module, norm: Any) -> nn.Conv2d:
    """Returns a convolution that equals `conv` followed by `norm`; computed in float64."""
    assert isinstance(conv, nn.Conv2d)
    mean, variance = norm.get_buffer("running_mean").double(), norm.get_buffer("running_var").double()
    scale = norm.weight.double() / (variance + norm.eps).sqrt()
    folded = copy.deepcopy(conv)
    folded.weight.copy_(conv.weight.double() * scale[:, None, None, None])
    bias = norm.bias.double() - mean * scale
    folded.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False)
    return folded
