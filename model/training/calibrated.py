"""Random networks that detect: for benchmarks and parity tests where there are no trained weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.ops.misc import FrozenBatchNorm2d

# Standard deviations of the last layers' outputs, about those of a trained network.
SPREADS = {
    "rpn.head.cls_logits": 2.0,
    "rpn.head.bbox_pred": 0.5,
    "roi_heads.box_predictor.cls_score": 2.2,
    "roi_heads.box_predictor.bbox_pred": 0.5,
    "roi_heads.mask_predictor.mask_fcn_logits": 2.5,
}


@torch.no_grad()
def calibrate(network: TorchvisionMaskRCNN, image: np.ndarray) -> TorchvisionMaskRCNN:
    """Gives a random network the statistics of a trained one, in place, by one forward pass over an image.

    Without it a random network finds nothing: activations shrink or explode layer by layer, and every
    score is the same. Every normalisation takes the statistics of what reaches it, and the last layers
    are scaled so that their outputs spread as those of a trained network do.

    Args:
        image: uint8 (H, W, 3) RGB.
    """
    hooks = [
        module.register_forward_pre_hook(_fit_norm)
        for module in network.modules()
        if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d)
    ]
    hooks += [network.get_submodule(name).register_forward_hook(_fit_spread(s)) for name, s in SPREADS.items()]
    network.eval()([torch.as_tensor(image).permute(2, 0, 1).float() / 255])
    for hook in hooks:
        hook.remove()
    return network


def _fit_norm(norm: Any, inputs: tuple[Tensor]) -> None:
    over = [d for d in range(inputs[0].ndim) if d != 1]
    norm.running_mean.copy_(inputs[0].mean(over))
    norm.running_var.copy_(inputs[0].var(over) + 1e-3)


def _fit_spread(deviation: float) -> Callable[..., Tensor | None]:
    fitted: list[bool] = []

    def hook(layer: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor | None:
        if fitted:  # the RPN's head runs on every level; the finest, which comes first, decides
            return None
        fitted.append(True)
        layer.bias.zero_()
        layer.weight.mul_(deviation / layer.forward(*inputs).std())
        return layer.forward(*inputs)

    return hook
