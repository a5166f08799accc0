"""ResNet and ResNeXt backbones (He et al. 2015, arXiv:1512.03385; Xie et al. 2016, arXiv:1611.05431).

Parameter names are torchvision's (`conv1`, `layer1.0.conv1`, ...), so a public checkpoint of any depth loads
without renaming. Batch normalisation is a layer here, so that the same backbone can be trained;
`model.inference.fold_batch_norm` merges it into the convolutions when a network is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from model.layers.torchvision_ops import torchvision_ops
from model.preset import Preset

Norm = Callable[[int], nn.Module]  # makes the normalisation of so many channels


def norm_layer(preset: Preset) -> Norm:
    """Returns the backbone's normalisation: torchvision's frozen one differs from PyTorch's in the last digit."""
    return partial(torchvision_ops().FrozenBatchNorm2d if preset.frozen_bn else nn.BatchNorm2d, eps=preset.bn_eps)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (R-18, R-34)."""

    def __init__(self, in_channels: int, out_channels: int, width: int, stride: int, preset: Preset) -> None:
        super().__init__()
        norm = norm_layer(preset)
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, out_channels, 3, 1, 1, bias=False)
        self.bn2 = norm(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection_shortcut(in_channels, out_channels, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in_channels, H, W) to (B, out_channels, H/stride, W/stride)."""
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + identity)


class Bottleneck(nn.Module):
    """1x1, 3x3 (grouped in a ResNeXt) and 1x1 convolutions and a shortcut (R-50 and deeper).

    torchvision's checkpoints have the stride in the 3x3 convolution; the original ones (Caffe, most of
    detectron2's zoo) have it in the first 1x1. `Preset.stride_on_1x1` says which.
    """

    def __init__(self, in_channels: int, out_channels: int, width: int, stride: int, preset: Preset) -> None:
        super().__init__()
        norm = norm_layer(preset)
        first, second = (stride, 1) if preset.stride_on_1x1 else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, width, 1, first, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, second, 1, groups=preset.groups, bias=False)
        self.bn2 = norm(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = norm(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection_shortcut(in_channels, out_channels, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in_channels, H, W) to (B, out_channels, H/stride, W/stride)."""
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + identity)


def projection_shortcut(in_channels: int, out_channels: int, stride: int, norm: Norm) -> nn.Sequential | None:
    """Returns the projection shortcut ("option B" of the paper), or None where the shapes already agree."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), norm(out_channels))


class ResNet(nn.Module):
    """The backbone that a preset describes, with random weights: C2..C5 at strides 4, 8, 16, 32.

    It reads these fields of the preset: `blocks` ((3, 4, 6, 3) is R-50, (3, 4, 23, 3) R-101),
    `trunk_channels`, `trunk_widths` (channels inside a block, equal to `trunk_channels` for basic blocks),
    `stem`, `bottleneck`, `groups`, `stride_on_1x1`, `frozen_bn`, `bn_eps`.
    """

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, preset.stem, 7, 2, 3, bias=False)
        self.bn1 = norm_layer(preset)(preset.stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        block: type[nn.Module] = Bottleneck if preset.bottleneck else BasicBlock
        in_channels = preset.stem
        stages = zip(preset.blocks, preset.trunk_channels, preset.trunk_widths, strict=True)
        for stage, (count, out_channels, width) in enumerate(stages):
            layers = []
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                layers.append(block(in_channels, out_channels, width, stride, preset))
                in_channels = out_channels
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps normalised images (B, 3, H, W) to [C2, C3, C4, C5], each (B, trunk_channels[i], H/s, W/s)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        features = []
        for name in ("layer1", "layer2", "layer3", "layer4"):
            x = self.get_submodule(name)(x)
            features.append(x)
        return features
