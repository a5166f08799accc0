"""The training loop: AdamW, warm-up and cosine, an average of the weights, restartable."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.preset import Preset
from model.training.crops import CropOptions, Crops
from model.training.network import Average, build_torchvision, in_bfloat16


@dataclass(frozen=True)
class Recipe:
    """How long and how hard. The schedule ends at `steps` or after `minutes`, whichever is first."""

    steps: int = 8000
    minutes: float = math.inf
    batch: int = 4
    lr: float = 1e-3
    weight_decay: float = 0.02
    warmup: int = 200
    clip: float = 5.0
    average: float = 0.998
    seed: int = 0
    rois: int = 112  # sampled an image for the box head; a quarter of them positive, for the mask head


Report = Callable[[int, float, dict[str, float]], None]


def train(
    preset: Preset,
    annotations: Path,
    images: Path,
    recipe: Recipe,
    crops: CropOptions,
    balance: str | None = None,
    start: dict[str, Tensor] | None = None,
    saved: Path | None = None,
    report: Report = lambda step, progress, losses: None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Trains a network of the preset's shape on random crops.

    Args:
        start: a state dict to begin from (fine-tuning); tensors of another shape begin at random.
        saved: the run is saved to this file every five minutes and continued from it if it exists.
        report: called after every step with the step, the progress 0..1 and the running losses.

    Returns:
        The averaged state dict in torchvision's layout, float32, and what was done (for provenance).
    """
    torch.manual_seed(recipe.seed)
    network = build_torchvision(
        preset,
        _skip_resize=True,
        box_batch_size_per_image=recipe.rois,
        rpn_pre_nms_top_n_train=1000,
        rpn_post_nms_top_n_train=1000,
    ).to(memory_format=torch.channels_last)
    if start:
        shapes = {k: v.shape for k, v in network.state_dict().items()}
        network.load_state_dict({k: v for k, v in start.items() if shapes.get(k) == v.shape}, strict=False)
    if torch.cpu._is_amx_tile_supported():
        # Without AMX, oneDNN's bfloat16 kernel for the weights of a thin 1x1 convolution ends the process
        # (jit_avx512_core_bf16_1x1_convolution_bwd_weights; an AMD EPYC, torch 2.14).
        in_bfloat16(network)
    network.train()
    optimizer, average = _optimizer(network, recipe), Average(network, recipe.average)
    step, spent = 0, 0.0
    if saved and saved.exists():
        step, spent = _restore(saved, network, optimizer, average)
    dataset = Crops(annotations, images, crops, balance, recipe.steps * recipe.batch)

    began, last_save, running = time.monotonic() - spent, time.monotonic(), dict[str, float]()
    progress = 0.0
    while progress < 1:
        minutes = (time.monotonic() - began) / 60
        progress = max((step + 1) / recipe.steps, minutes / recipe.minutes)
        for group in optimizer.param_groups:
            group["lr"] = (
                recipe.lr * min(1, (step + 1) / recipe.warmup) * (0.5 + 0.5 * math.cos(math.pi * min(1, progress)))
            )
        batch = [dataset[step * recipe.batch + i] for i in range(recipe.batch)]
        losses = network([image for image, _ in batch], [target for _, target in batch])
        total = sum(losses.values())
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
        if torch.isfinite(norm):  # a step whose gradient overflowed would undo all of them
            optimizer.step()
            average.update(network)
        step += 1
        for key, value in losses.items():
            running[key] = 0.98 * running.get(key, value.item()) + 0.02 * value.item()
        report(step, progress, running)
        if saved and time.monotonic() - last_save > 300:
            _save(saved, network, optimizer, average, step, time.monotonic() - began)
            last_save = time.monotonic()
    done = {"steps": step, "minutes": round((time.monotonic() - began) / 60, 1), "losses": running}
    if saved:
        saved.unlink(missing_ok=True)
    return average.state, {"recipe": asdict(recipe), "crops": asdict(crops), "done": done}


def _optimizer(network: torch.nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW that decays kernels and matrices, not biases and normalisations."""
    kernels = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": kernels, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.lr)


def _save(path: Path, network: torch.nn.Module, optimizer: Any, average: Average, step: int, spent: float) -> None:
    state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "average": average.state}
    part = path.with_suffix(".part")
    torch.save(state | {"averaged": average.steps, "step": step, "spent": spent}, part)
    part.replace(path)


def _restore(path: Path, network: torch.nn.Module, optimizer: Any, average: Average) -> tuple[int, float]:
    state = torch.load(path, weights_only=True)
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    average.state, average.steps = state["average"], state["averaged"]
    return state["step"], state["spent"]
