"""Merging batch normalisation into the convolution before it: at inference both are one affine map."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torchvision.ops.misc import FrozenBatchNorm2d

from model.resnet import BasicBlock, Bottleneck, ResNet


def fold_batch_norm(trunk: ResNet) -> None:
    """Folds every batch normalisation of the trunk, in place; the folded layers become identities."""
    trunk.conv1 = _folded(trunk.conv1, trunk.bn1)
    trunk.bn1 = nn.Identity()
    for block in trunk.modules():
        if not isinstance(block, BasicBlock | Bottleneck):
            continue
        for i in (1, 2, 3):
            if hasattr(block, f"conv{i}"):
                setattr(block, f"conv{i}", _folded(getattr(block, f"conv{i}"), getattr(block, f"bn{i}")))
                setattr(block, f"bn{i}", nn.Identity())
        if block.downsample is not None:
            block.downsample = nn.Sequential(_folded(block.downsample[0], block.downsample[1]), nn.Identity())


@torch.no_grad()
def _folded(conv: nn.Module, norm: nn.Module) -> nn.Conv2d:
    """A convolution that does what `conv` followed by `norm` did; computed in float64."""
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d)
    mean, variance = norm.get_buffer("running_mean").double(), norm.get_buffer("running_var").double()
    scale = norm.weight.double() / (variance + norm.eps).sqrt()
    folded = copy.deepcopy(conv)
    folded.weight.copy_(conv.weight.double() * scale[:, None, None, None])
    folded.bias = nn.Parameter((norm.bias.double() - mean * scale).to(conv.weight.dtype), requires_grad=False)
    return folded
