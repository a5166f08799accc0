"""The training loop: AdamW with warm-up and cosine decay, averaged weights, resumable after an interruption."""

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
from model.training.crops import RandomCrops, TrainingData
from model.training.network import ExponentialMovingAverage, build_torchvision, run_layers_in_bfloat16

SAVE_SECONDS = 300


@dataclass(frozen=True)
class Recipe:
    """The schedule and its hyperparameters. Training ends after `steps` or after `minutes`, whichever comes first."""

    steps: int = 8000
    minutes: float = math.inf
    batch: int = 4
    lr: float = 1e-3  # peak, after the warm-up
    weight_decay: float = 0.02
    warmup: int = 200  # steps
    clip: float = 5.0  # norm of the gradient
    average: float = 0.998  # decay of the averaged weights
    seed: int = 0
    rois: int = 112  # RoIs sampled per image for the box head; a quarter of them positive, for the mask head


Report = Callable[[int, float, dict[str, float]], None]


def train(
    preset: Preset,
    data: TrainingData,
    recipe: Recipe,
    start: dict[str, Tensor] | None = None,
    resume_file: Path | None = None,
    report: Report = lambda step, progress, losses: None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Trains a network on random crops.

    Args:
        preset: architecture and classes of the network.
        data: the images and how to sample them.
        recipe: schedule and hyperparameters.
        start: a state dict to fine-tune from. Tensors of another shape are initialised at random.
        resume_file: file in which the state of the run is saved every five minutes. If it exists, training
            continues from it.
        report: called after every step with the step, the progress 0..1 and the running means of the losses.

    Returns:
        The averaged state dict, float32 under torchvision's names, and a record of the run for the provenance.
    """
    torch.manual_seed(recipe.seed)
    run = _Run(preset, recipe, start)
    if resume_file and resume_file.exists():
        run.restore(resume_file)
    crops = RandomCrops(data, recipe.steps * recipe.batch)
    started, last_save = time.monotonic() - run.elapsed, time.monotonic()
    running, progress = dict[str, float](), 0.0
    while progress < 1:
        minutes = (time.monotonic() - started) / 60
        progress = max((run.step + 1) / recipe.steps, minutes / recipe.minutes)
        losses = run.optimize([crops[run.step * recipe.batch + i] for i in range(recipe.batch)], progress)
        running = {key: 0.98 * running.get(key, value) + 0.02 * value for key, value in losses.items()}
        report(run.step, progress, running)
        if resume_file and time.monotonic() - last_save > SAVE_SECONDS:
            run.elapsed = time.monotonic() - started
            run.save(resume_file)
            last_save = time.monotonic()
    done = {"steps": run.step, "minutes": round((time.monotonic() - started) / 60, 1), "losses": running}
    if resume_file:
        resume_file.unlink(missing_ok=True)
    return run.average.state, {"recipe": asdict(recipe), "crops": asdict(data.crops), "done": done}


class _Run:
    """The state of a training run: network, optimizer, averaged weights, steps and seconds so far."""

    def __init__(self, preset: Preset, recipe: Recipe, start: dict[str, Tensor] | None) -> None:
        self.recipe, self.step, self.elapsed = recipe, 0, 0.0
        self.network = build_torchvision(
            preset,
            _skip_resize=True,
            box_batch_size_per_image=recipe.rois,
            rpn_pre_nms_top_n_train=1000,
            rpn_post_nms_top_n_train=1000,
        ).to(memory_format=torch.channels_last)
        if start:
            shapes = {k: v.shape for k, v in self.network.state_dict().items()}
            self.network.load_state_dict({k: v for k, v in start.items() if shapes.get(k) == v.shape}, strict=False)
        if torch.cpu._is_amx_tile_supported():
            # Without AMX, oneDNN's bfloat16 kernel for the weight gradient of a thin 1x1 convolution kills the
            # process (jit_avx512_core_bf16_1x1_convolution_bwd_weights; an AMD EPYC, torch 2.14).
            run_layers_in_bfloat16(self.network)
        self.network.train()
        self.optimizer = _adamw(self.network, recipe)
        self.average = ExponentialMovingAverage(self.network, recipe.average)

    def optimize(self, batch: list[tuple[Tensor, dict[str, Tensor]]], progress: float) -> dict[str, float]:
        """Takes one step and returns its losses."""
        for group in self.optimizer.param_groups:
            group["lr"] = _learning_rate(self.recipe, self.step, progress)
        losses = self.network([image for image, _ in batch], [target for _, target in batch])
        self.optimizer.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip)
        if torch.isfinite(norm):  # a step with an overflowed gradient would destroy the weights
            self.optimizer.step()
            self.average.update(self.network)
        self.step += 1
        return {key: value.item() for key, value in losses.items()}

    def save(self, path: Path) -> None:
        """Saves the run to a file, which is replaced atomically."""
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state,
            "average_steps": self.average.steps,
            "step": self.step,
            "elapsed": self.elapsed,
        }
        part = path.with_suffix(".part")
        torch.save(state, part)
        part.replace(path)

    def restore(self, path: Path) -> None:
        """Continues from a saved run."""
        state = torch.load(path, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.state, self.average.steps = state["average"], state["average_steps"]
        self.step, self.elapsed = state["step"], state["elapsed"]


def _learning_rate(recipe: Recipe, step: int, progress: float) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    return recipe.lr * min(1, (step + 1) / recipe.warmup) * (0.5 + 0.5 * math.cos(math.pi * min(1, progress)))


def _adamw(network: torch.nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """Builds AdamW with weight decay on kernels and matrices, but not on biases and normalisations."""
    kernels = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": kernels, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.lr)
