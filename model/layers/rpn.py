"""Region proposal network (Ren et al. 2015, arXiv:1506.01497), batch first.

Two published architectures are two settings of this code. Today's checkpoints take proposals from every
pyramid level, with three anchors per location and a sigmoid score. The paper describes proposals from the
finest map only, with nine anchors and a two-way softmax.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.layers.anchors import anchors_at
from model.layers.boxes import clip, decode, large_enough
from model.layers.nms import Candidates, nms_per_image
from model.preset import Preset


class RpnHead(nn.Module):
    """3x3 convolutions (usually one), then two 1x1 convolutions: k (or 2k) scores and 4k deltas per location.

    Args:
        channels: of each pyramid level.
        anchors: k, anchors per location.
        scores: 1 (sigmoid) or 2 (softmax) per anchor.
        convs: number of 3x3 convolutions.
    """

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
    """Selects the proposals of all images from all levels.

    1. Take the best `rpn_pre_nms` anchors of each level by objectness.
    2. Decode and clip their boxes, and drop tiny ones.
    3. Run NMS within each (image, level), then take the best `rpn_post_nms` of each image.

    Args:
        objectness: float32 (B, anchors) of each level.
        deltas: float32 (B, anchors, 4) of each level.
        grids: (rows, columns) of each level.
        padded: height and width of the network's input, pixels.
        sizes: int64 (B, 2), height and width of each image before padding.

    Returns:
        RoIs float32 (R, 5): image index, then xyxy in input pixels; ordered by image, then best first.
    """
    box, score, level_of = _best_boxes_of_each_level(preset, objectness, deltas, grids, padded)
    box = clip(box, sizes[:, None])
    if preset.rpn_rank == "probability":
        score = score.sigmoid()
    image = torch.arange(len(sizes), device=sizes.device)[:, None].expand_as(score)

    large = large_enough(box, preset.rpn_min_size)
    candidates = Candidates(box[large], score[large], image[large], level_of[large])
    best = candidates[nms_per_image(candidates, preset.rpn_nms, preset.rpn_post_nms)]
    return torch.cat([best.image[:, None].to(box), best.boxes], dim=1)


def _best_boxes_of_each_level(
    preset: Preset,
    objectness: Sequence[Tensor],
    deltas: Sequence[Tensor],
    grids: Sequence[tuple[int, int]],
    padded: tuple[int, int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns boxes (B, K, 4) xyxy in input pixels, objectness (B, K) and levels (B, K), K summed over levels."""
    boxes, scores, levels = [], [], []
    for level, grid in enumerate(grids):
        best, index = objectness[level].topk(min(preset.rpn_pre_nms, objectness[level].shape[1]), dim=1)
        best_deltas = deltas[level].gather(1, index[..., None].expand(-1, -1, 4))
        anchors = anchors_at(preset, level, index, grid, padded)
        boxes.append(decode(best_deltas, anchors, preset.rpn_box_weights, preset.box_clamp, preset.box_clamp_low))
        scores.append(best)
        levels.append(torch.full_like(index, level))
    return torch.cat(boxes, 1), torch.cat(scores, 1), torch.cat(levels, 1)
