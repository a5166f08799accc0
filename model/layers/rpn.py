"""Region proposal network (Ren et al. 2015, arXiv:1506.01497), batch first.

Two published designs are two settings of this code: proposals from every pyramid level with three
anchors a location and a sigmoid score (today's checkpoints), or from the finest map alone with nine
anchors and a two-way softmax (the paper's description).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.layers.anchors import anchors_at
from model.layers.boxes import at_least, best_after_nms, clip, decode
from model.preset import Preset


class RpnHead(nn.Module):
    """3x3 convolutions (one, usually) and two 1x1 siblings: k (or 2k) scores and 4k deltas for each location."""

    def __init__(self, channels: int, anchors: int, scores: int, convs: int = 1) -> None:
        super().__init__()
        self.scores = scores
        self.conv = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()) for _ in range(convs))
        )
        self.cls_logits = nn.Conv2d(channels, anchors * scores, 1)
        self.bbox_pred = nn.Conv2d(channels, anchors * 4, 1)

    def forward(self, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Maps each level (B, C, H, W) to objectness logits (B, H*W*k) and deltas (B, H*W*k, 4)."""
        objectness, deltas = [], []
        for feature in levels:
            hidden = self.conv(feature)
            batch = len(hidden)
            logits = self.cls_logits(hidden).permute(0, 2, 3, 1)  # (B, H, W, k * scores)
            if self.scores == 2:  # softmax over (background, object) is the sigmoid of their difference
                pairs = logits.reshape(batch, -1, 2)
                objectness.append(pairs[..., 1] - pairs[..., 0])
            else:
                objectness.append(logits.reshape(batch, -1))
            deltas.append(self.bbox_pred(hidden).permute(0, 2, 3, 1).reshape(batch, -1, 4))
        return objectness, deltas


def propose(
    preset: Preset,
    objectness: Sequence[Tensor],
    deltas: Sequence[Tensor],
    grids: Sequence[tuple[int, int]],
    padded: tuple[int, int],
    sizes: Tensor,
) -> Tensor:
    """The boxes worth a second look, for all images and levels at once.

    1. the best `rpn_pre_nms` of each level by objectness; 2. decoded, clipped, the tiny ones dropped;
    3. NMS within (image, level), then the best `rpn_post_nms` of each image.

    Args:
        objectness: for each level float32 (B, anchors).
        deltas: for each level float32 (B, anchors, 4).
        grids: (rows, columns) of each level.
        padded: height and width of the network's input.
        sizes: int64 (B, 2), height and width of each image before padding.

    Returns:
        RoIs float32 (R, 5): image index, then xyxy in input pixels; by image, best first.
    """
    batch, device = len(sizes), sizes.device
    scores, boxes, levels = [], [], []
    for level, grid in enumerate(grids):
        best, index = objectness[level].topk(min(preset.rpn_pre_nms, objectness[level].shape[1]), dim=1)  # (B, K)
        chosen = deltas[level].gather(1, index[..., None].expand(-1, -1, 4))
        reference = anchors_at(preset, level, index, grid, padded)
        boxes.append(decode(chosen, reference, preset.rpn_box_weights, preset.box_clamp, preset.box_clamp_low))
        scores.append(best)
        levels.append(torch.full_like(index, level))
    box = clip(torch.cat(boxes, 1), sizes[:, None])  # (B, K of all levels, 4)
    score, level_of = torch.cat(scores, 1), torch.cat(levels, 1)
    if preset.rpn_rank == "probability":
        score = score.sigmoid()
    image = torch.arange(batch, device=device)[:, None].expand_as(score)

    large = at_least(box, preset.rpn_min_size)
    box, score, level_of, image = box[large], score[large], level_of[large], image[large]
    kept = best_after_nms(box, score, image, level_of, preset.rpn_nms, preset.rpn_post_nms)
    return torch.cat([image[kept, None].to(box), box[kept]], dim=1)
