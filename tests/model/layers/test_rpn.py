"""The RPN, against torchvision's: on every level, and the paper's architecture on the finest map only."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from model import MaskRCNN, Preset
from model.inference.prepare import prepare
from model.layers.rpn import RpnHead, propose

CHANNELS = 16
PADDED = (256, 320)
SIZES = [(256, 320), (230, 300), (256, 290), (225, 289)]  # of images that all pad to `PADDED`
GRIDS = [(64, 80), (32, 40), (16, 20), (8, 10), (4, 5)]
PRESET = Preset(
    anchor_sizes=((4.0,), (8.0,), (32.0,), (128.0,), (256.0,)), rpn_pre_nms=250, rpn_post_nms=150, rpn_nms=0.6
)
PAPER = Preset(
    rpn_levels=1,
    rpn_scores=2,
    anchor_sizes=((32.0, 64.0, 128.0),),
    anchor_ratios=((0.5, 1.0, 2.0),),
    rpn_pre_nms=1200,
    rpn_post_nms=150,
)


def random_head(head: nn.Module, generator: torch.Generator) -> nn.Module:
    """Sets weights that spread scores and deltas like a trained network's."""
    for parameter in head.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return head.requires_grad_(False)


def features(generator: torch.Generator, levels: int) -> list[Tensor]:
    return [torch.randn(len(SIZES), CHANNELS, *grid, generator=generator) for grid in GRIDS[:levels]]


def torchvision_rpn(head: RPNHead, preset: Preset) -> RegionProposalNetwork:
    pre, post = {"testing": preset.rpn_pre_nms}, {"testing": preset.rpn_post_nms}
    anchors = AnchorGenerator(preset.anchor_sizes, preset.anchor_ratios)
    return RegionProposalNetwork(anchors, head, 0.7, 0.3, 256, 0.5, pre, post, preset.rpn_nms).eval()


def assert_proposals_of_each_image(rois: Tensor, rpn: RegionProposalNetwork, maps: list[Tensor]) -> None:
    """Asserts that a batch's RoIs are torchvision's proposals for each image by itself."""
    assert torch.equal(rois[:, 0], rois[:, 0].sort().values)
    for i, size in enumerate(SIZES):
        images = ImageList(torch.zeros(1, 3, *PADDED), [size])
        with torch.inference_mode():
            (expected,), _ = rpn(images, {str(n): m[i : i + 1] for n, m in enumerate(maps)})
        found = rois[rois[:, 0] == i, 1:]
        assert len(found) == len(expected) > 50
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("spread", [1, 8])  # under the second, sizes of small anchors reach the clamp
def test_proposals_of_a_batch_are_torchvisions(spread: float) -> None:
    generator = torch.Generator().manual_seed(0)
    reference = random_head(RPNHead(CHANNELS, 3), generator)
    reference.bbox_pred.weight *= spread
    head = RpnHead(CHANNELS, 3, 1).requires_grad_(False)
    head.load_state_dict(reference.state_dict())
    maps = features(generator, 5)
    rois = propose(PRESET, *head(maps), GRIDS, PADDED, torch.tensor(SIZES))
    assert_proposals_of_each_image(rois, torchvision_rpn(reference, PRESET), maps)


def test_without_the_limit_after_nms_only_nms_decides() -> None:
    """With the limit of the preset above, the final cut would hide errors of NMS."""
    generator = torch.Generator().manual_seed(1)
    reference = random_head(RPNHead(CHANNELS, 3), generator)
    head = RpnHead(CHANNELS, 3, 1).requires_grad_(False)
    head.load_state_dict(reference.state_dict())
    maps = features(generator, 5)
    preset = PRESET.replace(rpn_post_nms=10_000, rpn_pre_nms=400)
    rois = propose(preset, *head(maps), GRIDS, PADDED, torch.tensor(SIZES))
    assert len(rois) > 150 * len(SIZES)
    assert_proposals_of_each_image(rois, torchvision_rpn(reference, preset), maps)


def test_the_head_is_torchvisions() -> None:
    generator = torch.Generator().manual_seed(2)
    reference = random_head(RPNHead(CHANNELS, 3), generator)
    head = RpnHead(CHANNELS, 3, 1).requires_grad_(False)
    head.load_state_dict(reference.state_dict())
    maps = features(generator, 5)
    objectness, deltas = head(maps)
    for level, (logits, boxes) in enumerate(zip(*reference(maps), strict=True)):
        for row in range(len(SIZES)):  # torchvision: (B, k, H, W) and (B, 4k, H, W)
            expected = logits[row].permute(1, 2, 0).flatten()
            torch.testing.assert_close(objectness[level][row], expected, rtol=0, atol=1e-5)
            expected = boxes[row].unflatten(0, (3, 4)).permute(2, 3, 0, 1).reshape(-1, 4)
            torch.testing.assert_close(deltas[level][row], expected, rtol=0, atol=1e-5)


def test_two_scores_are_a_softmax_over_background_and_object() -> None:
    generator = torch.Generator().manual_seed(3)
    head = random_head(RpnHead(CHANNELS, 9, 2), generator)
    assert head.cls_logits.out_channels == 18  # 2k
    assert head.bbox_pred.out_channels == 36  # 4k
    (feature,) = features(generator, 1)
    objectness, _ = head([feature])
    hidden = F.relu(F.conv2d(feature, head.conv[0][0].weight, head.conv[0][0].bias, padding=1))
    logits = F.conv2d(hidden, head.cls_logits.weight, head.cls_logits.bias)
    pairs = logits.unflatten(1, (9, 2)).permute(0, 3, 4, 1, 2).reshape(len(SIZES), -1, 2)
    torch.testing.assert_close(objectness[0].sigmoid(), torch.softmax(pairs, -1)[..., 1], rtol=0, atol=1e-6)


def test_the_papers_design_is_torchvisions_rpn_on_one_level() -> None:
    """The object's log-odds under a softmax is a difference of two logits, so one logit can stand for both."""
    generator = torch.Generator().manual_seed(4)
    head = random_head(RpnHead(CHANNELS, 9, 2), generator)
    reference = RPNHead(CHANNELS, 9).requires_grad_(False)
    state = head.state_dict()
    for name in ("cls_logits.weight", "cls_logits.bias"):
        background, thing = state[name].unflatten(0, (9, 2)).unbind(1)
        state[name] = thing - background
    reference.load_state_dict(state)
    maps = features(generator, 1)
    rois = propose(PAPER, *head(maps), GRIDS[:1], PADDED, torch.tensor(SIZES))
    assert_proposals_of_each_image(rois, torchvision_rpn(reference, PAPER), maps)


@pytest.mark.parametrize("scores", [1, 2])
def test_a_network_of_the_papers_design_predicts(pixels: dict[str, np.ndarray], tiny: Preset, scores: int) -> None:
    """Nine anchors, proposals from the finest map only, RoIs from all maps."""
    preset = tiny.replace(
        rpn_levels=1, rpn_scores=scores, anchor_sizes=PAPER.anchor_sizes, anchor_ratios=PAPER.anchor_ratios, min_score=0
    )
    torch.manual_seed(5)
    network = prepare(MaskRCNN(preset), torch.float32, torch.device("cpu"), exact=True)
    for found in network.predict([pixels["landscape"], pixels["portrait"]]):
        assert len(found) > 5
        assert found.boxes.shape == (len(found), 4)
        assert found.masks.shape == (len(found), 28, 28)

    images = torch.randn(2, 3, 128, 160)
    features, objectness, deltas = network.dense(images)
    assert [o.shape for o in objectness] == [(2, 32 * 40 * 9)]
    assert [d.shape for d in deltas] == [(2, 32 * 40 * 9, 4)]
    assert [f.shape[-2:] for f in features[:4]] == [(32, 40), (16, 20), (8, 10), (4, 5)]
