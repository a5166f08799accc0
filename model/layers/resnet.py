"""ResNet and ResNeXt trunks (He et al. 2015, arXiv:1512.03385; Xie et al. 2016, arXiv:1611.05431).

Parameter names are torchvision's (`conv1`, `layer1.0.conv1`, ...): a public checkpoint of any depth
loads without renaming. Batch normalisation stays a layer of its own here, so that the same trunk can
be trained; `model.inference.fold_batch_norm.fold_batch_norm` merges it into the convolutions when a network is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from model.layers.torchvision_ops import operators
from model.preset import Preset

Norm = Callable[[int], nn.Module]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (R-18, R-34)."""

    def __init__(self, in_channels: int, out_channels: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, out_channels, 3, 1, 1, bias=False)
        self.bn2 = norm(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(in_channels, out_channels, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in_channels, H, W) to (B, out_channels, H/stride, W/stride)."""
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + identity)


class Bottleneck(nn.Module):
    """1x1, 3x3 (grouped in a ResNeXt), 1x1 convolutions and a shortcut (R-50 and deeper).

    The stride sits on the 3x3 convolution in torchvision's checkpoints and on the first 1x1 in the
    original ones (Caffe, most of detectron2's zoo): `stride_on_1x1` says which.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int,
        stride: int,
        norm: Norm,
        groups: int = 1,
        stride_on_1x1: bool = False,
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_on_1x1 else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, width, 1, first, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, second, 1, groups=groups, bias=False)
        self.bn2 = norm(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = norm(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(in_channels, out_channels, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in_channels, H, W) to (B, out_channels, H/stride, W/stride)."""
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + identity)


def shortcut(in_channels: int, out_channels: int, stride: int, norm: Norm) -> nn.Sequential | None:
    """The projection shortcut ("option B" of the paper), or None where the shapes already agree."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), norm(out_channels))


class ResNet(nn.Module):
    """The convolutional base C2..C5 at strides 4, 8, 16, 32.

    Args:
        blocks: residual blocks in each of the four stages: (3, 4, 6, 3) is R-50, (3, 4, 23, 3) R-101.
        channels: output channels of the four stages.
        widths: channels inside a block of each stage; equal to `channels` for basic blocks.
        stem: channels of the first 7x7 convolution.
        bottleneck: 1x1-3x3-1x1 blocks instead of two 3x3.
        groups: groups of the 3x3 convolution (ResNeXt).
        stride_on_1x1: where a bottleneck's stride sits.
        frozen_bn: torchvision's FrozenBatchNorm2d, whose arithmetic differs in the last digit.
        bn_eps: epsilon of every batch normalisation.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        channels: Sequence[int],
        widths: Sequence[int],
        stem: int = 64,
        bottleneck: bool = True,
        groups: int = 1,
        stride_on_1x1: bool = False,
        frozen_bn: bool = False,
        bn_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        norm = partial(operators().FrozenBatchNorm2d if frozen_bn else nn.BatchNorm2d, eps=bn_eps)
        self.conv1 = nn.Conv2d(3, stem, 7, 2, 3, bias=False)
        self.bn1 = norm(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        previous = stem
        for stage, (count, out, width) in enumerate(zip(blocks, channels, widths, strict=True)):
            layers: list[nn.Module] = []
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                layers.append(
                    Bottleneck(previous, out, width, stride, norm, groups, stride_on_1x1)
                    if bottleneck
                    else BasicBlock(previous, out, width, stride, norm)
                )
                previous = out
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps normalised images (B, 3, H, W) to [C2, C3, C4, C5], each (B, channels[i], H/s, W/s)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        features = []
        for name in ("layer1", "layer2", "layer3", "layer4"):
            x = self.get_submodule(name)(x)
            features.append(x)
        return features


def trunk_of(preset: Preset) -> ResNet:
    """The trunk that a preset describes, with random weights."""
    return ResNet(
        preset.blocks,
        preset.trunk_channels,
        preset.trunk_widths,
        preset.stem,
        preset.bottleneck,
        preset.groups,
        preset.stride_on_1x1,
        preset.frozen_bn,
        preset.bn_eps,
    )
