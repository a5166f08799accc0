"""The training loop reports finite losses, and continues after a kill."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from jobs.sample import DATA
from model.training.architectures import SMALL
from model.training.crops import CropOptions, TrainingData
from model.training.loop import Recipe, train
from model.training.network import build_torchvision

TINY = SMALL.replace(
    trunk_channels=(8, 8, 8, 8),
    trunk_widths=(8, 8, 8, 8),
    stem=8,
    fpn_channels=8,
    box_hidden=16,
    mask_channels=(8,),
    mask_hidden=8,
    category_ids=(1,),
    categories=("nucleus",),
)
TRAINING_DATA = TrainingData(DATA / "annotations.json", DATA / "images", CropOptions(size=128, min_size=256))


def test_losses_are_finite_and_torchvision_loads_the_averaged_weights() -> None:
    reported: list[dict[str, float]] = []
    state, provenance = train(
        TINY,
        TRAINING_DATA,
        Recipe(steps=3, batch=1, warmup=1),
        report=lambda step, progress, losses: reported.append(dict(losses)),
    )
    assert provenance["done"]["steps"] == len(reported) == 3
    assert set(reported[0]) == {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}
    assert all(np.isfinite(list(losses.values())).all() for losses in reported)
    build_torchvision(TINY).load_state_dict(state)


def test_a_saved_run_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, recipe = tmp_path / "run.training", Recipe(steps=5, batch=1)

    class KilledError(Exception):
        pass

    def kill(step: int, progress: float, losses: dict[str, float]) -> None:
        if step == 3:
            raise KilledError

    clock = iter(range(0, 10**6, 1000))  # more than five minutes pass between two readings of the clock
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    with pytest.raises(KilledError):
        train(TINY, TRAINING_DATA, recipe, resume_file=file, report=kill)
    monkeypatch.undo()
    steps: list[int] = []
    _, provenance = train(
        TINY, TRAINING_DATA, recipe, resume_file=file, report=lambda step, progress, losses: steps.append(step)
    )
    assert steps == [3, 4, 5]
    assert provenance["done"]["steps"] == 5
    assert not file.exists()
