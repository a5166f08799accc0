"""Folding: backbones without batch normalisation equal torchvision's backbones with it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.resnet import BasicBlock as Basic
from torchvision.models.resnet import Bottleneck as Deep
from torchvision.ops.misc import FrozenBatchNorm2d

from model.inference.fold_batch_norm import fold_batch_norm
from model.layers.resnet import Bottleneck, ResNet
from model.preset import Preset

STAGES = {f"layer{i}": str(i) for i in (1, 2, 3, 4)}
WIDE = (256, 512, 1024, 2048)
NARROW = (64, 128, 256, 512)


def random_statistics(network: nn.Module, images: Tensor, generator: torch.Generator) -> None:
    """Makes every normalisation differ from the identity: its input's statistics, random scale and shift."""

    def fit(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        count = len(norm.weight)
        spread = inputs[0].std((0, 2, 3))
        noise = torch.randn(3, count, generator=generator)
        norm.running_mean.data = inputs[0].mean((0, 2, 3)) + 0.3 * spread * noise[0]
        norm.running_var.data = (spread * (0.7 + 0.6 * torch.rand(count, generator=generator))) ** 2
        norm.weight.data, norm.bias.data = 0.8 + 0.3 * noise[1], 0.3 * noise[2]

    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d | FrozenBatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(fit) for norm in norms]
    network(images)
    for hook in hooks:
        hook.remove()


def torchvisions(block: type[nn.Module], **options: Any) -> nn.Module:
    return models.ResNet(block, [1, 2, 1, 1], **options)


BASIC = Preset(blocks=(1, 2, 1, 1), trunk_channels=NARROW, trunk_widths=NARROW, bottleneck=False)
DEEP = Preset(blocks=(1, 2, 1, 1), trunk_channels=WIDE, trunk_widths=NARROW)
CASES: dict[str, Callable[[], tuple[nn.Module, ResNet]]] = {
    "basic": lambda: (torchvisions(Basic), ResNet(BASIC)),
    "bottleneck": lambda: (torchvisions(Deep), ResNet(DEEP)),
    "grouped": lambda: (
        torchvisions(Deep, groups=32, width_per_group=4),
        ResNet(DEEP.replace(trunk_widths=(128, 256, 512, 1024), groups=32)),
    ),
    "frozen": lambda: (
        torchvisions(Deep, norm_layer=FrozenBatchNorm2d),
        ResNet(DEEP.replace(frozen_bn=True)),
    ),
    "large epsilon": lambda: (
        torchvisions(Basic, norm_layer=partial(nn.BatchNorm2d, eps=0.5)),
        ResNet(BASIC.replace(bn_eps=0.5)),
    ),
}


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_a_folded_backbone_is_torchvisions(case: str) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 96, 64, generator=generator)
    torch.manual_seed(0)
    reference, backbone = CASES[case]()
    reference.eval()
    random_statistics(reference, images, generator)
    state = {k: v for k, v in reference.state_dict().items() if not k.startswith("fc.")}
    backbone.eval().load_state_dict(state)
    expected = IntermediateLayerGetter(reference, STAGES)(images).values()
    for ours, theirs in zip(backbone(images), expected, strict=True):  # before folding
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    fold_batch_norm(backbone)
    assert not [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d | FrozenBatchNorm2d)]
    for ours, theirs in zip(backbone(images), expected, strict=True):
        torch.testing.assert_close(ours / theirs.std(), theirs / theirs.std(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 4])
@torch.inference_mode()
def test_the_stride_on_the_first_convolution(groups: int) -> None:
    """Caffe's blocks have the stride in the 1x1: torchvision's block with the two strides swapped."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 64, 64, generator=generator)
    torch.manual_seed(1)
    ours = Bottleneck(3, 64, 16, 2, Preset(groups=groups, stride_on_1x1=True)).eval()
    reference = Deep(3, 16, 2, ours.downsample, groups, base_width=64 // groups)  # 64 / groups / 64 x 16 x groups = 16
    reference.conv1.stride, reference.conv2.stride = (2, 2), (1, 1)
    reference.eval().load_state_dict(ours.state_dict())
    assert torch.equal(ours(images), reference(images))
