"""`maskfleet benchmark gpu` does the work that it times, and says when there is no GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_image
from typer.testing import CliRunner

from jobs.benchmarks.gpu_stages import STAGES, StageTimer, run_stages, summarise
from jobs.main import app
from model import load_model

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("nvjpeg", [False, True])
def test_every_stage_is_timed_and_finds_what_the_network_finds(
    small_input_weights: str, nuclei: Path, tmp_path: Path, nvjpeg: bool
) -> None:
    suffix = "jpg" if nvjpeg else "png"
    for path in sorted(p for p in nuclei.iterdir() if p.stat().st_size < 60_000)[:2]:
        Image.open(path).convert("RGB").crop((0, 0, 160, 120)).save(tmp_path / f"{path.stem}.{suffix}")
    if nvjpeg:
        (tmp_path / "0.png").write_bytes(b"not a JPEG file, and not opened")
    arguments = ["benchmark", "gpu", "--device", "cpu", "--weights", small_input_weights, "--images", str(tmp_path)]
    arguments += ["--count", "5", "--rounds", "2", "--batch-size", "1", *["--nvjpeg"] * nvjpeg]  # two windows
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert list(report["stages"]) == list(STAGES)
    assert all(seconds > 0 for seconds in report["stages"].values())
    data = [p.read_bytes() for p in sorted(tmp_path.glob(f"*.{suffix}"))]
    network = load_model(small_input_weights, device="cpu")
    files = [torch.frombuffer(bytearray(d), dtype=torch.uint8) for d in data]
    pixels = [decode_image(file, ImageReadMode.RGB).permute(1, 2, 0) for file in files]
    a, b = map(len, network.predict(pixels))
    assert report["detections"] == 3 * a + 2 * b > 0
    assert run_stages(network, data, 1, nvjpeg, StageTimer(torch.device("cpu"))) == a + b


def test_rates_are_of_the_medians() -> None:
    runs = [dict.fromkeys(STAGES, seconds) | {"actor": 5 * seconds, "all": 9 * seconds} for seconds in (1.0, 2.0, 30.0)]
    report = summarise(runs, 10)
    assert report["images_per_second"] == round(10 / 18, 3)
    assert report["actor_images_per_second"] == 1
    assert report["cores_to_feed_it"] == 0.4  # of two stages
    assert summarise(runs, 10, nvjpeg=True)["cores_to_feed_it"] == 0.2


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = CliRunner().invoke(app, ["benchmark", "gpu"])
    assert done.exit_code == 1
    assert "no GPU here: torch sees no CUDA device" in done.stderr


def test_a_device_that_torch_does_not_know() -> None:
    done = CliRunner().invoke(app, ["benchmark", "gpu", "--device", "abacus"])
    assert done.exit_code == 2
    assert "abacus is not a device of torch" in done.stderr
