"""An RPN on the finest level: detections equal those of torchvision's parts, assembled in the same way."""

import math

import pytest
import torch

from model import Checkpoint, Preset, load_model
from model.inference.prepare import prepare
from model.mask_rcnn import MaskRCNN
from model.training.architectures import TRUNKS, use_finest_level
from model.training.network import build_torchvision


@pytest.fixture(scope="module")
def network(tiny, pixels, calibrate):
    torch.manual_seed(1)
    preset = use_finest_level(tiny, (12, 32, 80))
    return preset, calibrate(build_torchvision(preset), pixels["landscape"])


@pytest.mark.parametrize("name", ["landscape", "portrait", "square"])
def test_detections_are_torchvisions(network, pixels, torchvision_detections, assert_same, name):
    preset, reference = network
    ours = load_model(Checkpoint(reference.state_dict(), preset, "", {}), precision="fp32", device="cpu")
    expected = torchvision_detections(reference, pixels[name])
    assert len(expected) > 5
    assert_same(ours.predict([pixels[name]])[0], expected)


def test_two_scores_are_a_softmax(network):
    preset, reference = network
    ours = load_model(Checkpoint(reference.state_dict(), preset, "", {}), precision="fp32", device="cpu")
    feature = torch.randn(2, preset.fpn_channels, 5, 7, generator=torch.Generator().manual_seed(0))
    head = ours.rpn["head"]
    objectness, deltas = head([feature])
    raw = head.cls_logits(head.conv(feature))  # (2, 2k, 5, 7), with 2k scores as in the reference description
    assert raw.shape[1] == 18
    assert deltas[0].shape == (2, 5 * 7 * 9, 4)
    pairs = raw.permute(0, 2, 3, 1).reshape(2, -1, 2)
    torch.testing.assert_close(objectness[0].sigmoid(), pairs.softmax(-1)[..., 1])


def test_about_200_thousand_anchors(pyramid_anchors):
    preset = use_finest_level(Preset(), (64, 192, 448))
    anchors = pyramid_anchors(preset, [(200, 272)], 800, 1088)
    assert preset.anchors_per_location == 9
    assert len(anchors) == 1
    assert len(anchors[0]) == 200 * 272 * 9 == 489_600
    # An input of 512 x 704 pixels comes close to the 200,000 anchors of the reference description.
    assert len(pyramid_anchors(preset, [(128, 176)], 512, 704)[0]) == 202_752


@pytest.mark.parametrize(("trunk", "blocks"), [("resnet50", 16), ("resnet101", 33)])
def test_the_reference_architecture_on_both_trunks(trunk, blocks):
    preset = use_finest_level(TRUNKS[trunk], (64, 192, 448)).replace(
        category_ids=[1], categories=["nucleus"], min_size=96, max_size=96
    )
    torch.manual_seed(0)
    ours = prepare(MaskRCNN(preset), torch.float32, torch.device("cpu"), exact=True)
    assert sum(len(ours.backbone.body.get_submodule(f"layer{i}")) for i in (1, 2, 3, 4)) == blocks
    reference = build_torchvision(preset)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in reference.state_dict().items()}
    objectness, deltas = ours.dense(torch.randn(1, 3, 96, 96))[1:]
    assert [o.shape for o in objectness] == [(1, 24 * 24 * 9)]
    assert math.prod(deltas[0].shape) == 4 * objectness[0].numel()
