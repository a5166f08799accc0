"""The part of the network with static shapes, compiled by `torch.compile` for each shape that it meets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Dense = Callable[[Tensor], tuple[list[Tensor], list[Tensor], list[Tensor]]]

SHAPES = 32  # compiled; each keeps code and, on a CPU, a copy of the weights in the order its kernels want


class CompiledDense:
    """`MaskRCNN.dense`, compiled anew for each height and width, up to `SHAPES` of them.

    A batch smaller than the largest of its shape so far is filled up with blank images, whose results are
    dropped: to compile for every number of images would take longer. On a CPU batches are of one image anyway.

    Args:
        dense: what is compiled.
        plain: the same, for the shapes beyond `SHAPES`.
        how: arguments of `torch.compile`.
    """

    def __init__(self, dense: Dense, plain: Dense, **how: Any) -> None:
        self._compiled: Dense = torch.compile(dense, dynamic=False, **how)
        self._plain = plain
        self._batch: dict[tuple[int, int], int] = {}  # images that each shape is compiled for

    def __call__(self, images: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """What `dense` makes of images (B, 3, H, W)."""
        shape, count = (images.shape[2], images.shape[3]), len(images)
        if self._batch.get(shape, 0) < count:
            if shape not in self._batch and len(self._batch) == SHAPES:
                return self._plain(images)
            self._batch[shape] = count
        if blank := self._batch[shape] - count:
            images = F.pad(images, (0, 0, 0, 0, 0, 0, 0, blank))
        # By default PyTorch compiles a function eight times, over all networks of a process, and then no more.
        limits = {"recompile_limit": 2**31, "accumulated_recompile_limit": 2**31}
        with torch.compiler.config.patch(**limits):  # type: ignore[attr-defined]
            features, objectness, deltas = self._compiled(images)
        return [f[:count] for f in features], [o[:count] for o in objectness], [d[:count] for d in deltas]
