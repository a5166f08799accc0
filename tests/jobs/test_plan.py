"""`segment --plan`: totals and an estimate, nothing segmented."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from support.commands import Segmented, contents, maskfleet, results, segment


def preview(*arguments: object) -> dict:
    return json.loads(maskfleet("segment", *arguments, "--plan", "--json").stdout)


def test_a_plan_counts_and_samples_and_segments_nothing(quick: tuple, plate: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    (plate / "text.jpg").write_text("no picture")
    plan = preview(plate, output, *quick)
    assert (plan["images"], plan["left"], plan["unsized"], plan["kinds"]) == (7, 7, 0, {"image": 7})
    assert plan["bytes"] == sum(p.stat().st_size for p in plate.iterdir())
    assert (plan["sample"]["images"], plan["sample"]["failed"]) == (7, 1)
    assert plan["seconds_here"] == pytest.approx(7 * plan["sample"]["seconds_per_image"], abs=0.1)
    assert not output.exists()


def test_a_plan_of_a_finished_output_counts_what_was_added_since(quick: tuple, again: Segmented) -> None:
    shown = maskfleet("segment", again.inputs, again.output, *quick, "--plan").stdout
    assert "left        0 images" in shown
    (again.inputs / "another.png").write_bytes((again.inputs / "good.png").read_bytes())
    plan = preview(again.inputs, again.output, *quick)
    assert (plan["images"], plan["left"], plan["last_rate"]) == (9, 1, again.record["images_per_second"])
    shown = maskfleet("segment", again.inputs, again.output, *quick, "--plan").stdout
    assert "on this machine alone" in shown
    assert "at the last run's" in shown


def test_a_plan_leaves_the_output_as_it_was(quick: tuple, mixed: Segmented, plate: Path, tmp_path: Path) -> None:
    output, small = tmp_path / "out", tmp_path / "small"
    small.mkdir()
    for path in sorted(plate.iterdir())[:2]:
        (small / path.name).write_bytes(path.read_bytes())
    assert preview(plate, output, *quick)["images"] == 6
    assert not output.exists()
    plan = preview(small, output, *quick)  # the plan of another input before it has left nothing
    assert (plan["images"], plan["left"]) == (2, 2)
    before = contents(mixed.output)
    plan = preview(plate, mixed.output, *quick)
    assert (plan["images"], plan["left"]) == (8 + 6, 6)
    assert contents(mixed.output) == before


def test_a_plan_takes_the_options_of_a_run(quick: tuple, mixed: Segmented) -> None:
    plan = preview(mixed.inputs, mixed.output, *quick, "--retry-errors")
    assert (plan["errors_retried"], plan["left"], plan["to_do"]) == (3, 3, 3)
    refused = maskfleet("segment", mixed.inputs, mixed.output, *quick, "--plan", "--min-score", 0.9)
    assert refused.exit_code == 1
    assert "move them away with --overwrite" in refused.stderr
    other = ("--min-score", 0.9, "--overwrite")
    plan = preview(mixed.inputs, mixed.output, *quick, *other, "--limit", 3)
    assert (plan["set_aside"], plan["left"], plan["to_do"], plan["sample"]["images"]) == (8, 8, 3, 3)
    assert plan["seconds_here"] == pytest.approx(3 * plan["sample"]["seconds_per_image"], abs=0.1)
    assert "min_score 0.1 -> 0.9" in maskfleet("segment", mixed.inputs, mixed.output, *quick, "--plan", *other).stdout


def test_a_plan_with_tiles_finds_what_the_run_does(local_ray: None, quick: tuple, nuclei: Path, tmp_path: Path) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    source = next(p for p in sorted(nuclei.iterdir()) if Image.open(p).size == (256, 256))
    Image.open(source).convert("RGB").resize((640, 640)).save(folder / "large.png")
    options = (*quick, "--precision", "fp32")
    tiles = ("--tile", 256, "--overlap", 64)
    tiled = preview(folder, output, *options, *tiles)["sample"]
    segment(folder, output, *options, *tiles)
    (row,) = results(output)
    assert tiled["instances_per_image"] == len(row["score"]) > 0
    whole = preview(folder, tmp_path / "whole", *options)["sample"]
    assert whole["instances_per_image"] != len(row["score"])
