"""Merging batch normalisation into the convolution before it: at inference both are one affine map."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.ops.misc import FrozenBatchNorm2d

from model.resnet import BasicBlock, Bottleneck, ResNet


def fold_batch_norm(trunk: ResNet) -> None:
    """Folds every batch normalisation of the trunk, in place; the folded layers become identities."""
    trunk.conv1, trunk.bn1 = _folded(trunk.conv1, trunk.bn1), nn.Identity()
    for block in trunk.modules():
        if not isinstance(block, BasicBlock | Bottleneck):
            continue
        for conv, norm in (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")):
            if hasattr(block, conv):
                setattr(block, conv, _folded(getattr(block, conv), getattr(block, norm)))
                setattr(block, norm, nn.Identity())
        if block.downsample is not None:
            conv, norm = block.downsample
            block.downsample = nn.Sequential(_folded(conv, norm), nn.Identity())


@torch.no_grad()
def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d | FrozenBatchNorm2d) -> nn.Conv2d:
    """A convolution that does what `conv` followed by `norm` did; computed in float64."""
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.double() - norm.running_mean.double() * scale
    folded = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, groups=conv.groups
    )
    folded.weight.copy_(conv.weight.double() * scale[:, None, None, None])
    folded.bias.copy_(shift)  # type: ignore[union-attr]
    return folded
