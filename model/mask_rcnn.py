"""Mask R-CNN, inference only: pixels in, boxes and 28x28 masks out."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.detections import Detections
from model.inference.compiled import CompiledDense
from model.inference.cpu_fusion import fuse, fusible
from model.inference.fold_batch_norm import fold_batch_norm
from model.inference.prefetch import Prefetcher, pinned, uploads
from model.layers.boxes import at_least, best_after_nms, clip, decode
from model.layers.fpn import pyramid_of, trunk_with_pyramid
from model.layers.heads import roi_heads
from model.layers.resnet import trunk_of
from model.layers.roi_align import pool
from model.layers.rpn import RpnHead, propose
from model.layers.transform import padded_size, resized_size, to_input
from model.preset import Preset


class MaskRCNN(nn.Module):
    """The network. Build one with `model.load_model`.

    Layers run in `dtype`, and features stay in it, pooled ones too. Scores, deltas, boxes, the coordinates at
    which features are pooled, and masks are float32: in half precision a coordinate is off by pixels.
    """

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.preset = preset
        self.backbone = trunk_with_pyramid(trunk_of(preset), pyramid_of(preset))
        anchors, scores = preset.anchors_per_location, preset.rpn_scores
        self.rpn = nn.ModuleDict({"head": RpnHead(preset.fpn_channels, anchors, scores, preset.rpn_convs)})
        self.roi_heads = roi_heads(preset)
        self.dtype = torch.float32
        self.exact = True
        self.layout = torch.contiguous_format
        self.eval().requires_grad_(False)

    def prepare(
        self, dtype: torch.dtype, device: torch.device, exact: bool = False, compiled: bool = False
    ) -> MaskRCNN:
        """Readies loaded weights for inference: folds, converts, moves, fuses. Call once.

        Args:
            exact: leave layers and memory as torchvision has them. Folded weights and other kernels round
                differently, and a network amplifies that to some thousandths of a pixel.
            compiled: let `torch.compile` have the part with static shapes (on a GPU as CUDA graphs), anew for
                each padded shape when it is first seen: see `model.inference.compiled`; not for `exact`.
        """
        self.dtype, self.exact = dtype, exact
        if exact:
            return self.to(device=device, dtype=dtype)
        fold_batch_norm(self)
        self.layout = torch.channels_last
        self.to(device=device, dtype=dtype).to(memory_format=self.layout)
        given = self._sharing_weights() if compiled else self  # the compiler fuses layers itself
        if fusible(device, dtype):
            fuse(self)
        if compiled:
            options = {"triton.cudagraphs": True} if device.type == "cuda" else {"freezing": True}
            self.dense = CompiledDense(given.dense, self.dense, options=options)  # type: ignore[method-assign]
        return self

    def _sharing_weights(self) -> MaskRCNN:
        """A network of the same static part, of modules of its own and the same weights."""
        shared = copy.copy(self)
        memo = {id(t): t for t in (*self.parameters(), *self.buffers())}
        shared._modules = {name: copy.deepcopy(self._modules[name], memo) for name in ("backbone", "rpn")}
        return shared

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def forward(
        self, images: Tensor, sizes: Tensor, meanwhile: Callable[[], None] = lambda: None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One batch.

        Args:
            images: float32 (B, 3, H, W), normalised and padded (`model.layers.transform.to_input`).
            sizes: int64 (B, 2), height and width of each image before padding.
            meanwhile: called once the static part is launched, the last moment at which nothing has been waited for.

        Returns:
            RoIs float32 (N, 5), image index and xyxy in input pixels, by image and best first; scores
            float32 (N,); labels int64 (N,); masks float32 (N, 28, 28).
        """
        if images.is_cuda or len(images) == 1:
            return self._forward(images, sizes, meanwhile)
        # A CPU takes the images one by one: a batch gains nothing there (the maps of one image fill its
        # caches), and a kernel that is chosen by the size of the batch would let neighbours in on a result.
        parts = [self._forward(image[None], size[None], meanwhile) for image, size in zip(images, sizes, strict=True)]
        for i, (rois, *_) in enumerate(parts):
            rois[:, 0] = i
        rois, scores, labels, masks = (torch.cat(fields) for fields in zip(*parts, strict=True))
        return rois, scores, labels, masks

    def _forward(
        self, images: Tensor, sizes: Tensor, meanwhile: Callable[[], None]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        features, objectness, deltas = self.dense(images)
        meanwhile()
        grids = [(f.shape[2], f.shape[3]) for f in features[: self.preset.rpn_levels]]
        padded = (images.shape[2], images.shape[3])
        proposals = propose(self.preset, objectness, deltas, grids, padded, sizes)
        rois, scores, labels = self.detect(features, proposals, sizes)
        return rois, scores, labels, self.outline(features, rois, labels)

    def dense(self, images: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """The part with static shapes: P2..P6, and objectness (B, A) and deltas (B, A, 4) a level."""
        width = images.shape[3]
        if self.dtype == torch.bfloat16:
            # oneDNN's bfloat16 kernel for a 3x3 convolution of stride 2 reads unwritten memory where its
            # output is one column wide: such strips get a second column of C5, which is cut off again.
            images = F.pad(images, (0, max(0, 2 * self.preset.pad_multiple - width)))
        features = self.backbone(images.to(self.dtype, memory_format=self.layout))
        features = [f[..., : math.ceil(width / (4 << level))] for level, f in enumerate(features)]
        objectness, deltas = self.rpn["head"](features[: self.preset.rpn_levels])
        return features, [o.float() for o in objectness], [d.float() for d in deltas]

    def detect(self, features: Sequence[Tensor], proposals: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The box branch on all proposals (R, 5): RoIs (N, 5), scores (N,), labels (N,)."""
        p = self.preset
        pooled = pool(features, proposals, p.box_roi_size, p, self.exact)
        logits, deltas = self.roi_heads["box_predictor"](self.roi_heads["box_head"](pooled))
        probability = logits.float().softmax(-1)[:, 1:]  # (R, classes), background gone
        row, column = (probability > p.min_score).nonzero(as_tuple=True)
        score, label = probability[row, column], column + 1
        image = proposals[row, 0].long()
        box = decode(deltas.float()[row, label], proposals[row, 1:], p.box_weights, p.box_clamp, p.box_clamp_low)
        box = clip(box, sizes[image])

        kept = at_least(box, p.min_box).nonzero()[:, 0]
        kept = kept[best_after_nms(box[kept], score[kept], image[kept], label[kept], p.nms, p.max_detections)]
        return torch.cat([image[kept, None].to(box), box[kept]], 1), score[kept], label[kept]

    def outline(self, features: Sequence[Tensor], rois: Tensor, labels: Tensor) -> Tensor:
        """The mask branch on the detections alone: float32 (N, 28, 28) probabilities."""
        side = 2 * self.preset.mask_roi_size
        if not len(rois):
            return rois.new_zeros(0, side, side)
        pooled = pool(features, rois, self.preset.mask_roi_size, self.preset, self.exact)
        logits = self.roi_heads["mask_predictor"](self.roi_heads["mask_head"](pooled), labels)
        return logits.float().sigmoid()

    @torch.inference_mode()
    def predict(
        self,
        images: Sequence[np.ndarray | Tensor],
        sizes: Sequence[tuple[int, int]] | None = None,
        batch_size: int = 8,
    ) -> list[Detections]:
        """Finds the instances in each image; an image's result does not depend on the others.

        Args:
            images: uint8 (H, W, 3) RGB.
            sizes: original (height, width) of images that `model.layers.transform.shrink` has already reduced.
            batch_size: most images in one forward pass, at least 1; they share one only at the same padded shape.

        Raises:
            ValueError: an image of another type or shape, or without pixels; or a batch size below 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it is at least 1")
        tensors = [_checked(image, i) for i, image in enumerate(images)]
        sizes = sizes or [(t.shape[0], t.shape[1]) for t in tensors]
        resized = [resized_size(*size, self.preset) for size in sizes]
        results: dict[int, Detections] = {}

        def make(chosen: list[int]) -> Tensor:
            uploads = [pinned(tensors[i], self.device) for i in chosen]
            return to_input(uploads, [resized[i] for i in chosen], self.preset, self.device, self.exact)

        feed = Prefetcher(batches(resized, self.preset, batch_size), uploads(make, self.device))
        for chosen, batch in feed:
            inner = torch.tensor([resized[i] for i in chosen])
            outer = torch.tensor([sizes[i] for i in chosen])
            found = self(batch, inner.to(self.device, non_blocking=True), feed.prepare)
            results.update(zip(chosen, _split(found, inner, outer), strict=True))
        return [results[i] for i in range(len(images))]


def _checked(image: np.ndarray | Tensor, number: int) -> Tensor:
    """The image as a tensor, known to be uint8 (H, W, 3): other types would be read as 0..255 all the same."""
    if str(image.dtype).removeprefix("torch.") != "uint8" or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(
            f"image {number} is {image.dtype} {tuple(image.shape)}; it must be uint8 (H, W, 3), RGB from 0 to 255, "
            "with H and W at least 1"
        )
    return torch.as_tensor(np.ascontiguousarray(image) if isinstance(image, np.ndarray) else image)


def batches(sizes: Sequence[tuple[int, int]], preset: Preset, batch_size: int) -> list[list[int]]:
    """Which images share a forward pass: those of equal padded shape, at most `batch_size`.

    Args:
        sizes: resized height and width of each image.
    """
    by_shape = defaultdict(list)
    for i, size in enumerate(sizes):
        by_shape[padded_size(size, preset)].append(i)
    return [m[start : start + batch_size] for m in by_shape.values() for start in range(0, len(m), batch_size)]


def _split(output: tuple[Tensor, Tensor, Tensor, Tensor], inner: Tensor, outer: Tensor) -> list[Detections]:
    """One `Detections` an image, its boxes taken from input pixels (`inner`) to original ones (`outer`)."""
    rois, scores, labels, masks = _downloaded(*output)
    ratio = outer.float() / inner.float()  # (B, 2) as (y, x)
    image = rois[:, 0].long()
    boxes = rois[:, 1:] * ratio[image][:, [1, 0, 1, 0]]
    counts = torch.bincount(image, minlength=len(inner)).tolist()
    parts = (t.split(counts) for t in (boxes, scores, labels, masks))
    return [Detections(*fields) for fields in zip(*parts, strict=True)]


def _downloaded(rois: Tensor, scores: Tensor, labels: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A batch's output on the CPU, in one transfer: from a GPU each one waits for all work before it."""
    packed = torch.cat([rois, scores[:, None], labels[:, None].float(), masks.flatten(1)], 1).cpu()
    return packed[:, :5], packed[:, 5], packed[:, 6].long(), packed[:, 7:].unflatten(1, masks.shape[1:])
