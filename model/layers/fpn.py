"""Feature pyramid (Lin et al. 2017, arXiv:1612.03144): top-down path with lateral connections."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from model.layers.resnet import Norm, ResNet
from model.preset import Preset


class FeaturePyramid(nn.Module):
    """1x1 laterals, nearest-neighbour upsampling added in, a 3x3 convolution on each merged map."""

    def __init__(self, in_channels: Sequence[int], out_channels: int, norm: Norm | None = None) -> None:
        super().__init__()

        # torchvision keeps each convolution in a block of its own, hence the ".0" in the names.
        def block(channels: int, kernel: int) -> nn.Sequential:
            conv = nn.Conv2d(channels, out_channels, kernel, padding=kernel // 2, bias=norm is None)
            return nn.Sequential(conv) if norm is None else nn.Sequential(conv, norm(out_channels))

        self.inner_blocks = nn.ModuleList(block(channels, 1) for channels in in_channels)
        self.layer_blocks = nn.ModuleList(block(out_channels, 3) for _ in in_channels)

    def forward(self, trunk: Sequence[Tensor]) -> list[Tensor]:
        """Maps [C2..C5] to [P2..P6], each (B, out_channels, H/s, W/s) at strides 4 to 64.

        P6 is P5 subsampled by two, as Detectron and its successors make it.
        """
        merged = self.inner_blocks[-1](trunk[-1])
        pyramid = [self.layer_blocks[-1](merged)]
        for level in range(len(trunk) - 2, -1, -1):
            lateral = self.inner_blocks[level](trunk[level])
            merged = lateral + F.interpolate(merged, size=lateral.shape[-2:], mode="nearest")
            pyramid.insert(0, self.layer_blocks[level](merged))
        return [*pyramid, pyramid[-1][:, :, ::2, ::2]]


def pyramid_of(preset: Preset) -> FeaturePyramid:
    """The pyramid that a preset describes, with random weights."""
    norm = partial(nn.BatchNorm2d, eps=preset.bn_eps) if preset.fpn_norm else None
    return FeaturePyramid(preset.trunk_channels, preset.fpn_channels, norm)


def trunk_with_pyramid(trunk: ResNet, pyramid: FeaturePyramid) -> nn.Sequential:
    """Images (B, 3, H, W) to [P2..P6]; named as in torchvision's checkpoints (`body`, `fpn`)."""
    return nn.Sequential(OrderedDict(body=trunk, fpn=pyramid))
