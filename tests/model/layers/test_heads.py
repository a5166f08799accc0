"""The class, box and mask heads, against torchvision's."""

from __future__ import annotations

import torch
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import maskrcnn_inference

from model import Preset
from model.layers.heads import roi_heads

PRESET = Preset(
    fpn_channels=8,
    box_hidden=32,
    mask_channels=(8, 12, 8),
    mask_hidden=6,
    category_ids=(1, 2, 3, 4),
    categories=("a", "b", "c", "d"),
)


@torch.inference_mode()
def test_the_box_branch_is_torchvisions() -> None:
    torch.manual_seed(0)
    heads = roi_heads(PRESET)
    head, predictor = TwoMLPHead(8 * 7 * 7, 32), FastRCNNPredictor(32, 5)
    heads["box_head"].load_state_dict(head.state_dict())
    heads["box_predictor"].load_state_dict(predictor.state_dict())
    pooled = torch.randn(20, 8, 7, 7)
    logits, deltas = heads["box_predictor"](heads["box_head"](pooled))
    expected_logits, expected_deltas = predictor(head(pooled))
    torch.testing.assert_close(logits, expected_logits, rtol=0, atol=1e-6)
    torch.testing.assert_close(deltas.flatten(1), expected_deltas, rtol=0, atol=1e-6)
    assert deltas.shape == (20, 5, 4)


@torch.inference_mode()
def test_the_mask_branch_is_torchvisions() -> None:
    torch.manual_seed(1)
    heads = roi_heads(PRESET)
    head, predictor = MaskRCNNHeads(8, (8, 12, 8), 1), MaskRCNNPredictor(8, 6, 5)
    heads["mask_head"].load_state_dict(head.state_dict())
    heads["mask_predictor"].load_state_dict(predictor.state_dict())
    pooled, labels = torch.randn(20, 8, 14, 14), torch.randint(1, 5, (20,))
    found = heads["mask_predictor"](heads["mask_head"](pooled), labels).sigmoid()
    (expected,) = maskrcnn_inference(predictor(head(pooled)), [labels])
    assert found.shape == (20, 28, 28)
    torch.testing.assert_close(found, expected[:, 0], rtol=0, atol=1e-6)
