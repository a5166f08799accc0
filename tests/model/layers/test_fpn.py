"""The feature pyramid, against torchvision's, on maps of even and odd sides."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from model.layers.fpn import FeaturePyramid


@pytest.mark.parametrize("finest", [(64, 96), (50, 67), (8, 8), (9, 41)])
@torch.inference_mode()
def test_the_pyramid_is_torchvisions(finest: tuple[int, int]) -> None:
    torch.manual_seed(0)
    channels = (8, 12, 16, 24)
    reference = FeaturePyramidNetwork(list(channels), 20, LastLevelMaxPool())
    pyramid = FeaturePyramid(channels, 20)
    pyramid.load_state_dict(reference.state_dict())
    sides = [finest]
    for _ in range(3):
        sides.append(tuple(-(-s // 2) for s in sides[-1]))
    trunk = [torch.randn(2, c, *side) for c, side in zip(channels, sides, strict=True)]
    expected = reference(OrderedDict((str(i), t) for i, t in enumerate(trunk)))
    found = pyramid(trunk)
    assert len(found) == len(expected) == 5
    for ours, theirs in zip(found, expected.values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
