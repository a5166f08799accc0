"""`segment --plan`: totals and an estimate, nothing segmented."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from test_again import contents
from test_segment import planned, results, segment

pytestmark = pytest.mark.slow


def plan_of(*arguments: object) -> dict:
    return json.loads(planned(*arguments, "--json").stdout)


def test_a_plan_counts_and_samples_and_segments_nothing(plate: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    (plate / "text.jpg").write_text("no picture")
    plan = plan_of(plate, output, "--plan")
    assert (plan["images"], plan["left"], plan["unsized"], plan["kinds"]) == (7, 7, 0, {"image": 7})
    assert plan["bytes"] == sum(p.stat().st_size for p in plate.iterdir())
    assert (plan["sample"]["images"], plan["sample"]["failed"]) == (7, 1)
    assert plan["seconds_here"] == pytest.approx(7 * plan["sample"]["seconds_per_image"], abs=0.1)
    assert not (output / "results").exists()
    assert not (output / "_lease.json").exists()
    record = segment(plate, output)
    shown = planned(plate, output, "--plan").stdout
    assert "left        0 images" in shown
    (plate / "another.png").write_bytes(next(plate.glob("*.png")).read_bytes())
    plan = plan_of(plate, output, "--plan")
    assert (plan["images"], plan["left"], plan["last_rate"]) == (8, 1, record["images_per_second"])
    shown = planned(plate, output, "--plan").stdout
    assert "on this machine alone" in shown
    assert "at the last run's" in shown


def test_a_plan_leaves_the_output_as_it_was(plate: Path, tmp_path: Path) -> None:
    output, small = tmp_path / "out", tmp_path / "small"
    small.mkdir()
    one, two, *_ = sorted(plate.iterdir())
    for path in (one, two):
        (small / path.name).write_bytes(path.read_bytes())
    assert plan_of(plate, output, "--plan")["images"] == 6
    assert not output.exists()
    plan = plan_of(small, output, "--plan")  # the mistyped INPUT before it has left nothing
    assert (plan["images"], plan["left"]) == (2, 2)
    segment(small, output)
    before = contents(output)
    plan = plan_of(plate, output, "--plan")
    assert (plan["images"], plan["left"]) == (8, 6)
    assert contents(output) == before


def test_a_plan_does_what_it_is_asked_like_a_run(plate: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    (plate / "text.jpg").write_text("no picture")
    segment(plate, output)
    plan = plan_of(plate, output, "--plan", "--retry-errors")
    assert (plan["errors_retried"], plan["left"], plan["to_do"]) == (1, 1, 1)
    refused = planned(plate, output, "--plan", "--min-score", 0.9)
    assert refused.exit_code == 1
    assert "move them away with --overwrite" in refused.stderr
    other = ("--plan", "--min-score", 0.9, "--overwrite")
    plan = plan_of(plate, output, *other, "--limit", 3)
    assert (plan["set_aside"], plan["left"], plan["to_do"], plan["sample"]["images"]) == (7, 7, 3, 3)
    assert plan["seconds_here"] == pytest.approx(3 * plan["sample"]["seconds_per_image"], abs=0.1)
    assert "min_score 0.05 -> 0.9" in planned(plate, output, *other).stdout


def test_a_plan_with_tiles_finds_what_the_run_does(nuclei: Path, tmp_path: Path) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    source = next(p for p in sorted(nuclei.iterdir()) if Image.open(p).size == (256, 256))
    Image.open(source).convert("RGB").resize((640, 640)).save(folder / "large.png")
    tiles = ("--tile", 256, "--overlap", 64, "--precision", "fp32")
    plan = plan_of(folder, output, "--plan", *tiles)
    segment(folder, output, *tiles)
    (row,) = results(output)
    assert plan["sample"]["instances_per_image"] == len(row["score"])
    assert (
        len(row["score"])
        != plan_of(folder, tmp_path / "whole", "--plan", "--precision", "fp32")["sample"]["instances_per_image"]
    )
