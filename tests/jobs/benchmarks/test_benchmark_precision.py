"""`maskfleet benchmark precision` rounds one part of the network at a time."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from jobs.benchmarks import precision_parts
from jobs.benchmarks.precision_parts import Predict, our_predictions, round_to_bfloat16
from jobs.main import app
from jobs.sample import DATA
from model import load_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    path = next(p for p in sorted((DATA / "images").iterdir()) if p.stat().st_size < 60_000)
    return np.array(Image.open(path).convert("RGB"))


def test_every_variant_is_measured(
    small_input_weights: str, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(predict: Predict) -> float:
        return float(len(predict(image)))

    monkeypatch.setattr(precision_parts, "mask_average_precision", count)
    done = CliRunner().invoke(app, ["benchmark", "precision", "--weights", small_input_weights, "--json"])
    assert done.exit_code == 0, done.output
    names = ["fp32", "layers", "layers, boxes", "layers, scores", "layers, masks", "torchvision, autocast"]
    figures = json.loads(done.stdout)
    assert list(figures) == names
    assert all(count > 0 for count in figures.values())


def test_rounding_ends_with_the_context(small_input_weights: str, image: np.ndarray) -> None:
    network = load_model(small_input_weights, precision="fp32", device="cpu")
    predict = our_predictions(network)
    exact = predict(image)
    with round_to_bfloat16(network, "scores"):
        rounded = [score for score, _ in predict(image)]
    assert rounded != [score for score, _ in exact]
    assert predict(image) == exact
