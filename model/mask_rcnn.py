"""Mask R-CNN (He et al. 2017, arXiv:1703.06870), inference only: pixels in, boxes and 28x28 masks out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.batching import (
    BatchDetections,
    Prefetcher,
    batches_by_shape,
    checked_image,
    pin,
    split_by_image,
    uploader,
)
from model.detections import Detections
from model.layers.boxes import clip, decode, large_enough
from model.layers.fpn import backbone_with_fpn
from model.layers.heads import roi_heads
from model.layers.nms import Candidates, nms_per_image
from model.layers.roi_align import multiscale_roi_align
from model.layers.rpn import RpnHead, propose
from model.layers.transform import resized_size, to_input
from model.preset import Preset


class MaskRCNN(nn.Module):
    """The network, with random weights. `model.load_model` builds one from a checkpoint.

    Weights and feature maps have the type `dtype`. Scores, deltas, boxes, sampling coordinates and masks are
    float32: in half precision a coordinate is off by pixels.

    Attributes:
        preset: the settings that it was built from.
        dtype: type of weights and feature maps.
        exact: True if images are resized and RoIs pooled as torchvision does it, to the last bit where possible.
        memory_format: of the feature maps.

    `model.inference.prepare.prepare` sets the last three.
    """

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.preset = preset
        self.backbone = backbone_with_fpn(preset)
        anchors, scores = preset.anchors_per_location, preset.rpn_scores
        self.rpn = nn.ModuleDict({"head": RpnHead(preset.fpn_channels, anchors, scores, preset.rpn_convs)})
        self.roi_heads = roi_heads(preset)
        self.dtype = torch.float32
        self.exact = True
        self.memory_format = torch.contiguous_format
        self.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    def forward(
        self, images: Tensor, sizes: Tensor, after_launch: Callable[[], None] = lambda: None
    ) -> BatchDetections:
        """Detects the instances of one batch.

        Args:
            images: float32 (B, 3, H, W), normalised and padded (`model.layers.transform.to_input`).
            sizes: int64 (B, 2), height and width of each image before padding.
            after_launch: called when the dense part has been launched and nothing has been waited for yet.
        """
        if images.is_cuda or len(images) == 1:
            return self._forward(images, sizes, after_launch)
        # A CPU takes the images one by one. A batch is not faster there, since the maps of one image fill its
        # caches, and kernels that depend on the batch size would let neighbours change an image's result.
        results = [
            self._forward(image[None], size[None], after_launch) for image, size in zip(images, sizes, strict=True)
        ]
        for i, result in enumerate(results):
            result.rois[:, 0] = i
        return BatchDetections(*(torch.cat(fields) for fields in zip(*results, strict=True)))

    def _forward(self, images: Tensor, sizes: Tensor, after_launch: Callable[[], None]) -> BatchDetections:
        features, objectness, deltas = self.dense(images)
        after_launch()
        grids = [(f.shape[2], f.shape[3]) for f in features[: self.preset.rpn_levels]]
        padded = (images.shape[2], images.shape[3])
        proposals = propose(self.preset, objectness, deltas, grids, padded, sizes)
        rois, scores, labels = self.detect(features, proposals, sizes)
        return BatchDetections(rois, scores, labels, self.predict_masks(features, rois, labels))

    def dense(self, images: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Runs the fully convolutional part: backbone, FPN and the RPN's head. Its shapes depend on the input only.

        Returns:
            Features P2..P6 in `dtype`; for each level that proposes, objectness float32 (B, A) and deltas
            float32 (B, A, 4), A anchors.
        """
        width = images.shape[3]
        if self.dtype == torch.bfloat16:
            # oneDNN's bfloat16 kernel for a 3x3 convolution of stride 2 reads uninitialised memory if its output
            # is one column wide. Such strips get a second column of C5, which is cut off below.
            images = F.pad(images, (0, max(0, 2 * self.preset.pad_multiple - width)))
        features = self.backbone(images.to(self.dtype, memory_format=self.memory_format))
        features = [f[..., : math.ceil(width / (4 << level))] for level, f in enumerate(features)]
        objectness, deltas = self.rpn["head"](features[: self.preset.rpn_levels])
        return features, [o.float() for o in objectness], [d.float() for d in deltas]

    def detect(self, features: Sequence[Tensor], proposals: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Runs the box branch (classification, box regression, NMS) on proposals float32 (R, 5).

        Returns:
            RoIs float32 (N, 5), scores float32 (N,), labels int64 (N,), as in `BatchDetections`.
        """
        p = self.preset
        pooled = multiscale_roi_align(features, proposals, p.box_roi_size, p, self.exact)
        logits, deltas = self.roi_heads["box_predictor"](self.roi_heads["box_head"](pooled))
        probabilities = logits.float().softmax(-1)[:, 1:]  # (R, classes), without the background
        rows, columns = (probabilities > p.min_score).nonzero(as_tuple=True)
        scores, labels = probabilities[rows, columns], columns + 1
        images = proposals[rows, 0].long()
        boxes = decode(deltas.float()[rows, labels], proposals[rows, 1:], p.box_weights, p.box_clamp, p.box_clamp_low)
        boxes = clip(boxes, sizes[images])

        large = large_enough(boxes, p.min_box)
        candidates = Candidates(boxes[large], scores[large], images[large], labels[large])
        best = candidates[nms_per_image(candidates, p.nms, p.max_detections)]
        return torch.cat([best.image[:, None].to(boxes), best.boxes], 1), best.scores, best.group

    def predict_masks(self, features: Sequence[Tensor], rois: Tensor, labels: Tensor) -> Tensor:
        """Runs the mask branch on the detections only: float32 (N, 28, 28), probabilities over each box."""
        side = 2 * self.preset.mask_roi_size
        if not len(rois):
            return rois.new_zeros(0, side, side)
        pooled = multiscale_roi_align(features, rois, self.preset.mask_roi_size, self.preset, self.exact)
        logits = self.roi_heads["mask_predictor"](self.roi_heads["mask_head"](pooled), labels)
        return logits.float().sigmoid()

    @torch.inference_mode()
    def predict(
        self,
        images: Sequence[np.ndarray | Tensor],
        sizes: Sequence[tuple[int, int]] | None = None,
        batch_size: int = 8,
    ) -> list[Detections]:
        """Detects the instances of each image. An image's result does not depend on the other images.

        Args:
            images: uint8 (H, W, 3) RGB.
            sizes: original (height, width) of images that `model.layers.transform.shrink` has already reduced.
            batch_size: most images in one forward pass. Only images of equal padded shape share one.

        Raises:
            ValueError: an image has another dtype or shape, or no pixels; or `batch_size` is below 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        tensors = [checked_image(image, i) for i, image in enumerate(images)]
        sizes = sizes or [(t.shape[0], t.shape[1]) for t in tensors]
        resized = [resized_size(*size, self.preset) for size in sizes]
        results: dict[int, Detections] = {}

        def make_batch(chosen: list[int]) -> Tensor:
            pinned = [pin(tensors[i], self.device) for i in chosen]
            return to_input(pinned, [resized[i] for i in chosen], self.preset, self.device, self.exact)

        batches = Prefetcher(batches_by_shape(resized, self.preset, batch_size), uploader(make_batch, self.device))
        for chosen, batch in batches:
            resized_sizes = torch.tensor([resized[i] for i in chosen])
            original_sizes = torch.tensor([sizes[i] for i in chosen])
            found = self(batch, resized_sizes.to(self.device, non_blocking=True), batches.prefetch)
            results.update(zip(chosen, split_by_image(found, resized_sizes, original_sizes), strict=True))
        return [results[i] for i in range(len(images))]
