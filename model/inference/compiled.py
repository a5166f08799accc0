"""Compiles the dense part of the network with `torch.compile`, once for each input shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Dense = Callable[[Tensor], tuple[list[Tensor], list[Tensor], list[Tensor]]]

MAX_SHAPES = 32  # each keeps compiled code and, on a CPU, a copy of the weights in its kernels' layout


class CompiledDense:
    """Runs `MaskRCNN.dense` compiled, for up to `MAX_SHAPES` heights and widths.

    A batch that is smaller than the largest one of its shape so far is filled with blank images, whose results
    are dropped. Compiling for every batch size would take longer. On a CPU every batch is one image anyway.

    Args:
        dense: the function to compile.
        eager: the same function for the shapes beyond `MAX_SHAPES`, which are not compiled.
        compile_options: keyword arguments of `torch.compile`.
    """

    def __init__(self, dense: Dense, eager: Dense, **compile_options: Any) -> None:
        self._compiled: Dense = torch.compile(dense, dynamic=False, **compile_options)
        self._eager = eager
        self._batch_sizes: dict[tuple[int, int], int] = {}  # that each shape is compiled for

    def __call__(self, images: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Runs `dense` on images (B, 3, H, W)."""
        shape, count = (images.shape[2], images.shape[3]), len(images)
        if self._batch_sizes.get(shape, 0) < count:
            if shape not in self._batch_sizes and len(self._batch_sizes) == MAX_SHAPES:
                return self._eager(images)
            self._batch_sizes[shape] = count
        if blank := self._batch_sizes[shape] - count:
            images = F.pad(images, (0, 0, 0, 0, 0, 0, 0, blank))
        # By default PyTorch stops after compiling a function eight times, counted over all networks of a process.
        limits = {"recompile_limit": 2**31, "accumulated_recompile_limit": 2**31}
        with torch.compiler.config.patch(**limits):  # type: ignore[attr-defined]
            features, objectness, deltas = self._compiled(images)
        return [f[:count] for f in features], [o[:count] for o in objectness], [d[:count] for d in deltas]
