"""Names of tensors in checkpoints of mmdetection."""

from __future__ import annotations


def names(key: str) -> str:
    """Returns the mmdetection name of a key in our layout."""
    for ours, theirs in (
        ("backbone.body.", "backbone."),
        ("rpn.head.conv.0.0", "rpn_head.rpn_conv"),
        ("rpn.head.cls_logits", "rpn_head.rpn_cls"),
        ("rpn.head.bbox_pred", "rpn_head.rpn_reg"),
        ("roi_heads.box_head.fc6", "roi_head.bbox_head.shared_fcs.0"),
        ("roi_heads.box_head.fc7", "roi_head.bbox_head.shared_fcs.1"),
        ("roi_heads.box_predictor.cls_score", "roi_head.bbox_head.fc_cls"),
        ("roi_heads.box_predictor.bbox_pred", "roi_head.bbox_head.fc_reg"),
        ("roi_heads.mask_predictor.conv5_mask", "roi_head.mask_head.upsample"),
        ("roi_heads.mask_predictor.mask_fcn_logits", "roi_head.mask_head.conv_logits"),
    ):
        if key.startswith(ours):
            return theirs + key.removeprefix(ours)
    kind, rest = key.rsplit(".", 1)
    for i in range(4):
        if kind == f"backbone.fpn.inner_blocks.{i}.0":
            return f"neck.lateral_convs.{i}.conv.{rest}"
        if kind == f"backbone.fpn.layer_blocks.{i}.0":
            return f"neck.fpn_convs.{i}.conv.{rest}"
        if kind == f"roi_heads.mask_head.{i}.0":
            return f"roi_head.mask_head.convs.{i}.conv.{rest}"
    raise AssertionError(key)
