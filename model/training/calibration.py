"""Makes random networks detect objects, for benchmarks and parity tests that have no trained weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.ops.misc import FrozenBatchNorm2d

# Standard deviations of the outputs of the last layers, similar to those of a trained network.
OUTPUT_STD = {
    "rpn.head.cls_logits": 2.0,
    "rpn.head.bbox_pred": 0.5,
    "roi_heads.box_predictor.cls_score": 2.2,
    "roi_heads.box_predictor.bbox_pred": 0.5,
    "roi_heads.mask_predictor.mask_fcn_logits": 2.5,
}


@torch.no_grad()
def calibrate(network: TorchvisionMaskRCNN, image: np.ndarray) -> TorchvisionMaskRCNN:
    """Gives a random network the activation statistics of a trained one, in place, with one forward pass.

    A random network finds nothing: activations shrink or explode from layer to layer, and all scores are equal.
    Here every normalisation takes the statistics of its input, and the last layers are scaled so that their outputs
    have the spread of a trained network.

    Args:
        network: torchvision's Mask R-CNN.
        image: uint8 (H, W, 3) RGB.

    Returns:
        The same network, in evaluation mode.
    """
    hooks = [
        module.register_forward_pre_hook(_fit_norm)
        for module in network.modules()
        if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d)
    ]
    hooks += [network.get_submodule(name).register_forward_hook(_fit_layer(std)) for name, std in OUTPUT_STD.items()]
    network.eval()([torch.as_tensor(image).permute(2, 0, 1).float() / 255])
    for hook in hooks:
        hook.remove()
    return network


def _fit_norm(norm: Any, inputs: tuple[Tensor]) -> None:
    """Sets the statistics of a normalisation to those of its input (B, C, H, W)."""
    dims = [d for d in range(inputs[0].ndim) if d != 1]
    norm.running_mean.copy_(inputs[0].mean(dims))
    norm.running_var.copy_(inputs[0].var(dims) + 1e-3)


def _fit_layer(std: float) -> Callable[..., Tensor | None]:
    """Returns a forward hook that scales a layer so that its output has a standard deviation, and no bias."""
    fitted = False

    def hook(layer: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor | None:
        nonlocal fitted
        if fitted:  # the RPN head runs on every level, and its first call, on the finest level, decides
            return None
        fitted = True
        layer.bias.zero_()
        layer.weight.mul_(std / layer.forward(*inputs).std())
        return layer.forward(*inputs)

    return hook
