"""Prepares a network with loaded weights for fast inference."""

from __future__ import annotations

import copy

import torch

from model.inference.compiled import CompiledDense
from model.inference.cpu_fusion import can_fuse, fuse_layers
from model.inference.fold_batch_norm import fold_batch_norm
from model.mask_rcnn import MaskRCNN


def prepare(
    network: MaskRCNN, dtype: torch.dtype, device: torch.device, exact: bool = False, compiled: bool = False
) -> MaskRCNN:
    """Folds, converts, moves and fuses the layers of a network in place. Call it once.

    Args:
        exact: keep layers and memory layout as torchvision has them. Folded weights and other kernels round
            differently, and the network amplifies that to some thousandths of a pixel.
        compiled: compile the dense part with `torch.compile` (CUDA graphs on a GPU), once for each padded
            shape when it is first seen; see `model.inference.compiled`. Cannot be combined with `exact`.

    Returns:
        The same network.
    """
    network.dtype, network.exact = dtype, exact
    if exact:
        return network.to(device=device, dtype=dtype)
    fold_batch_norm(network)
    network.memory_format = torch.channels_last
    network.to(device=device, dtype=dtype).to(memory_format=network.memory_format)
    unfused = _copy_sharing_weights(network) if compiled else network  # the compiler fuses layers itself
    if can_fuse(device, dtype):
        fuse_layers(network)
    if compiled:
        options = {"triton.cudagraphs": True} if device.type == "cuda" else {"freezing": True}
        dense = CompiledDense(unfused.dense, network.dense, options=options)
        network.dense = dense  # type: ignore[method-assign]
    return network


def _copy_sharing_weights(network: MaskRCNN) -> MaskRCNN:
    """Returns a network with copies of the dense part's modules, which share their weights with the original."""
    shared = copy.copy(network)
    memo = {id(t): t for t in (*network.parameters(), *network.buffers())}
    shared._modules = {name: copy.deepcopy(network._modules[name], memo) for name in ("backbone", "rpn")}
    return shared
