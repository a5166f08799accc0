"""`maskfleet benchmark gpu` does the work that it times, and says so where there is no GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from PIL import Image
from typer.testing import CliRunner

from jobs.benchmark_gpu import STAGES, summary
from jobs.main import app
from model import load_model
from pipeline.decode import to_rgb


def test_every_stage_is_timed_and_finds_what_the_network_finds(nuclei: Path, tmp_path: Path) -> None:
    for path in sorted(p for p in nuclei.iterdir() if p.stat().st_size < 60_000)[:2]:
        Image.open(path).convert("RGB").crop((0, 0, 160, 120)).save(tmp_path / path.name)
    arguments = ["benchmark", "gpu", "--device", "cpu", "--images", str(tmp_path), "--count", "3", "--rounds", "2"]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert list(report["stages"]) == list(STAGES)
    assert all(seconds > 0 for seconds in report["stages"].values())
    pixels = [to_rgb(Image.open(p)) for p in sorted(tmp_path.iterdir())]
    expected = [len(d) for d in load_model("nuclei", device="cpu").predict([pixels[0], pixels[1], pixels[0]])]
    assert report["detections"] == sum(expected) > 0


def test_rates_are_of_the_medians() -> None:
    runs = [dict.fromkeys(STAGES, seconds) | {"all": 9 * seconds} for seconds in (1.0, 2.0, 30.0)]
    report = summary(runs, 10)
    assert report["images_per_second"] == round(10 / 18, 3)
    assert report["actor_images_per_second"] == round(10 / 12, 3)  # six stages are the actor's
    assert report["cores_to_feed_it"] == round(4 / 12, 3)


def test_without_a_gpu_it_says_so() -> None:
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "jobs.benchmark", "gpu"]
    done = subprocess.run(command, env=hidden, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "no GPU here: torch sees no CUDA device" in done.stderr


def test_a_device_that_torch_does_not_know() -> None:
    done = CliRunner().invoke(app, ["benchmark", "gpu", "--device", "abacus"])
    assert done.exit_code == 2
    assert "abacus is no device of torch" in done.stderr
