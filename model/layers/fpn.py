"""Feature pyramid network (Lin et al. 2017, arXiv:1612.03144): a top-down path with lateral connections."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from model.layers.resnet import Norm, ResNet
from model.preset import Preset


class FeaturePyramid(nn.Module):
    """Merges backbone maps top-down: 1x1 laterals, nearest upsampling, addition, a 3x3 convolution on each level.

    Args:
        in_channels: channels of C2..C5.
        out_channels: channels of every output level.
        norm: makes the normalisation that follows each convolution, which then has no bias; None for none.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, norm: Norm | None = None) -> None:
        super().__init__()

        # torchvision wraps each convolution in a block, hence the ".0" in the parameter names.
        def block(channels: int, kernel: int) -> nn.Sequential:
            conv = nn.Conv2d(channels, out_channels, kernel, padding=kernel // 2, bias=norm is None)
            return nn.Sequential(conv) if norm is None else nn.Sequential(conv, norm(out_channels))

        self.inner_blocks = nn.ModuleList(block(channels, 1) for channels in in_channels)
        self.layer_blocks = nn.ModuleList(block(out_channels, 3) for _ in in_channels)

    def forward(self, backbone_maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps [C2..C5] to [P2..P6], each (B, out_channels, H/s, W/s) with strides s from 4 to 64.

        P6 is every second pixel of P5, as in Detectron and its successors.
        """
        merged = self.inner_blocks[-1](backbone_maps[-1])
        pyramid = [self.layer_blocks[-1](merged)]
        for level in range(len(backbone_maps) - 2, -1, -1):
            lateral = self.inner_blocks[level](backbone_maps[level])
            merged = lateral + F.interpolate(merged, size=lateral.shape[-2:], mode="nearest")
            pyramid.insert(0, self.layer_blocks[level](merged))
        return [*pyramid, pyramid[-1][:, :, ::2, ::2]]


def backbone_with_fpn(preset: Preset) -> nn.Sequential:
    """Builds the ResNet and its pyramid, with random weights: images (B, 3, H, W) to [P2..P6].

    The parts are named `body` and `fpn`, as in torchvision's checkpoints.
    """
    norm = partial(nn.BatchNorm2d, eps=preset.bn_eps) if preset.fpn_norm else None
    pyramid = FeaturePyramid(preset.trunk_channels, preset.fpn_channels, norm)
    return nn.Sequential(OrderedDict(body=ResNet(preset), fpn=pyramid))
