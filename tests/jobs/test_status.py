"""`maskfleet status` and `maskfleet evaluate`: what they print."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import typer
from click.testing import Result
from support.results import failed, perfect, subset, write_output, write_run
from typer.testing import CliRunner

from jobs.evaluate import evaluate
from jobs.status import status
from pipeline.output import lease
from pipeline.storage import Place

app = typer.Typer()
app.command()(status)
app.command()(evaluate)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def truth(annotations: dict) -> dict:
    chosen = subset(annotations, 4)
    return chosen | {"images": chosen["images"][:3]}


@pytest.fixture
def output(truth: dict, tmp_path: Path) -> Place:
    rows = [*perfect(truth), failed("s3://lab/cut.png", "DamagedImage: truncated: at byte 7")]
    return write_output(tmp_path / "out", rows, waiting=[f"s3://lab/{i}.png" for i in range(4)])


def test_status_counts(output: Place) -> None:
    result = run("status", output.url)
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.stdout.split("\n")]
    for line in ("catalogued 8", "done 4", "of them failed 1", "left 4", "1 DamagedImage", "no run has ended yet"):
        assert line in lines
    assert any(line.endswith("50.0 %") for line in lines)


def test_status_names_the_last_run(output: Place) -> None:
    write_run(output, "b", "2026-03-01T10:00:00.123456+00:00", weights="old")
    write_run(output, "a", "2026-03-02T11:30:00.123456+00:00", weights="s3://lab/[/v2]/cells.safetensors")
    text = run("status", output.url).stdout
    assert "last run 2026-03-02 11:30:00 UTC, weights s3://lab/[/v2]/cells.safetensors, 4 images in 12 s" in text


def test_status_as_json(output: Place) -> None:
    write_run(output, "a", "2026-03-02T11:30:00+00:00")
    document = json.loads(run("status", output.url, "--json").stdout)
    assert document["output"] == output.url
    assert {k: document[k] for k in ("catalogued", "done", "failed", "left")} == {
        "catalogued": 8,
        "done": 4,
        "failed": 1,
        "left": 4,
    }
    assert document["errors"] == {"DamagedImage": 1}
    assert document["runs"] == 1
    assert document["last_run"]["run"] == "a"


def test_status_does_not_round_up_to_100_percent(tmp_path: Path) -> None:
    rows = [failed(f"{i}.png", "DamagedImage: cut") for i in range(9999)]
    result = run("status", write_output(tmp_path, rows, waiting=["last.png"]).url)
    assert "99.9 %" in result.stdout


def test_status_of_a_folder_without_an_output(tmp_path: Path) -> None:
    result = run("status", tmp_path / "typo")
    assert result.exit_code == 1
    assert "check the spelling" in result.stderr
    assert result.stdout == ""


def test_a_storage_option_without_a_value_is_a_usage_error(output: Place) -> None:
    assert run("status", output.url, "--storage-option", "anon").exit_code == 2


def test_evaluate_shows_both_aps_and_the_limit(output: Place, truth: dict, tmp_path: Path) -> None:
    ann = tmp_path / "ann.json"
    ann.write_text(json.dumps(truth))
    result = run("evaluate", output.url, ann)
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.split("\n")]
    assert lines[0] == ["COCO", "AP", "AP", "AP50", "AP75", "small", "medium", "large"]
    assert lines[1] == ["masks", *["1.000"] * 5, "-"]
    assert lines[2][:4] == ["boxes", *["1.000"] * 3]
    assert "maxDets 500" in result.stdout
    assert "1 images of the output are not annotated" in result.stdout
    assert "maxDets 7" in run("evaluate", output.url, ann, "--max-detections", 7).stdout


def test_evaluate_as_json(output: Place, truth: dict, tmp_path: Path) -> None:
    ann = tmp_path / "ann.json"
    ann.write_text(json.dumps(truth))
    document = json.loads(run("evaluate", output.url, ann, "--json").stdout)
    assert document["segm"]["AP"] == pytest.approx(1)
    assert document["segm"]["AP_large"] is None
    assert document["max_detections"] == 500


def test_evaluate_refuses_in_one_line(output: Place, tmp_path: Path) -> None:
    (tmp_path / "page.json").write_text("<html>")
    result = run("evaluate", output.url, tmp_path / "page.json")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "is not JSON" in result.stderr
    missing = run("evaluate", output.url, tmp_path / "nope.json")
    assert missing.exit_code == 1
    assert missing.stderr == f"error: {tmp_path / 'nope.json'}: no such file or folder: check the spelling\n"
    missing = run("evaluate", output.url, tmp_path / "nope.json")
    assert missing.exit_code == 1
    assert "nope.json: no such file or folder: check the spelling\n" in missing.stderr


def test_status_shows_a_running_job_and_not_a_dead_one(output: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT", 0.1)
    with lease.Lease(output, "now", lambda error: None, lambda text: None) as held:
        held.set_progress(images=3, images_to_do=8, failed=1, images_per_second=0.5)
        time.sleep(0.5)
        shown = run("status", output.url).stdout
        assert f"process {os.getpid()}" in shown
        assert "3 of 8 images at 0.50 images/s, 1 failed" in shown
        running = json.loads(run("status", output.url, "--json").stdout)["running"]
        assert running["progress"]["images_to_do"] == 8
    assert "running:" not in run("status", output.url).stdout
    dead = running | {"space": "a machine that is gone", "renewed": "2026-03-01T10:00:00+00:00"}
    output.join(lease.NAME).put(json.dumps(dead).encode())
    assert "running:" not in run("status", output.url).stdout
