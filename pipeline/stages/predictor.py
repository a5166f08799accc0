"""Runs the network on many images, and on smaller groups of them if that fails."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from model import Detections, MaskRCNN
from model.batching import batches_by_shape
from model.inference.memory import release_cached
from model.layers.transform import padded_size, resized_size
from pipeline.cluster.progress import Progress

STRIP = (8, 1000, 3)  # an image that is small for any network: its longer side is capped before its shorter one grows

Pixels = np.ndarray | torch.Tensor  # uint8 (H, W, 3) RGB


class Predictor:
    """The network, a batch size, and the progress that counts the forward passes."""

    def __init__(self, network: MaskRCNN, batch_size: int, progress: Progress) -> None:
        self.network, self.batch_size, self.progress = network, batch_size, progress

    def predict(self, images: Sequence[Pixels], sizes: Sequence[tuple[int, int]]) -> list[Detections | str]:
        """Segments images.

        If that fails, most likely because memory runs out, it tries each batch alone, then halves of the batch, down to
        single images.

        Args:
            sizes: height and width of each stored image; boxes are in its pixels.

        Returns:
            For each image its detections, or its error as `kind: reason`.
        """
        if not images:
            return []
        try:
            found = self.network.predict(images, sizes, self.batch_size)
        except (RuntimeError, MemoryError) as error:
            failure = f"SegmentError: {' '.join(str(error).split())[:200] or 'out of memory'}"
        else:
            self._count_batches(sizes)
            return list(found)
        # This is outside the handler: the traceback of the exception keeps the memory of the failed pass alive.
        release_cached(self.network.device)
        if len(images) == 1:
            self.network.predict([np.zeros(STRIP, np.uint8)])  # raises if the device is broken, not the image
            return [failure]
        results: dict[int, Detections | str] = {}
        for group in self._smaller_groups(sizes):
            retried = self.predict([images[i] for i in group], [sizes[i] for i in group])
            results |= zip(group, retried, strict=True)
        return [results[i] for i in range(len(images))]

    def _smaller_groups(self, sizes: Sequence[tuple[int, int]]) -> list[list[int]]:
        """The batches of images that failed together, or the halves of a single batch."""
        preset = self.network.preset
        groups = batches_by_shape([resized_size(*size, preset) for size in sizes], preset, self.batch_size)
        half = len(sizes) // 2
        return groups if len(groups) > 1 else [groups[0][:half], groups[0][half:]]

    def _count_batches(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Reports how full the forward passes were and how much of their input was padding."""
        preset = self.network.preset
        resized = [resized_size(*size, preset) for size in sizes]
        padded = [padded_size(size, preset) for size in resized]
        passes = len(batches_by_shape(resized, preset, self.batch_size))
        pixels, inputs = (sum(h * w for h, w in shapes) for shapes in (resized, padded))
        self.progress.batches(len(sizes), passes * self.batch_size, pixels, inputs)
