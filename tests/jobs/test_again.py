"""A job that is started again: failed images once more, other settings, an input that is plainly wrong."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

from support.commands import Segmented, contents, maskfleet, results, segment


def test_new_images_are_added_and_failed_ones_tried_again(
    quick: tuple, again: Segmented, small_nuclei: list[Path]
) -> None:
    inputs, output = again.inputs, again.output
    before = {r["uri"]: r for r in results(output) if r["error"] is None}
    files = {p.name: p.read_bytes() for p in (output / "results").iterdir()}
    shutil.copy(inputs / "good.png", inputs / "truncated.jpg")
    assert "nothing to do" in maskfleet("segment", inputs, output, *quick).stdout  # only with --retry-errors
    assert {p.name: p.read_bytes() for p in (output / "results").iterdir()} == files
    for path in small_nuclei[1:4]:
        shutil.copy(path, inputs)
    plan = json.loads(maskfleet("segment", inputs, output, *quick, "--plan", "--json").stdout)
    assert (plan["images"], plan["left"]) == (11, 3)

    record = segment(inputs, output, *quick, "--retry-errors", "--max-error-rate", 0.05, status=3)
    assert record["ended_by"] is None, "three images are too few to stop for; the error rate counts at the end"
    assert (record["images_before"], record["errors_retried"], record["images_to_do"]) == (5, 3, 6)
    assert (record["done"], record["left"]) == (11, 0)
    assert record["errors"] == {"EmptyFile": 1, "NotAnImage": 1}
    rows = {r["uri"]: r for r in results(output)}
    assert len(rows) == len(results(output)) == 11
    assert {uri: rows[uri] for uri in before} == before
    assert rows[str(inputs / "truncated.jpg")]["rle"] == rows[str(inputs / "good.png")]["rle"]
    once_more = maskfleet("segment", inputs, output, *quick, "--max-error-rate", 0.05)
    assert once_more.exit_code == 3
    assert "2 of 11 images failed" in once_more.stderr


def test_a_mistyped_input_changes_nothing(quick: tuple, mixed: Segmented, tmp_path: Path) -> None:
    empty, before = tmp_path / "empty", contents(mixed.output)
    empty.mkdir()
    aside = ("--overwrite", "--yes", "--min-score", 0.9)
    for inputs in ((tmp_path / "typo",), (mixed.inputs, tmp_path / "typo"), (mixed.inputs, empty)):
        for options in (("--retry-errors",), aside, (*aside, "--retry-errors"), ("--retry-errors", "--plan")):
            done = maskfleet("segment", *inputs, mixed.output, *quick, *options)
            assert done.exit_code == 1
            assert str(inputs[-1]) in done.stderr
            assert contents(mixed.output) == before


def test_other_settings_and_an_image_that_is_gone_from_its_shard(
    local_ray: None, quick: tuple, plate: Path, tmp_path: Path
) -> None:
    """The image leaves the catalog with its row: with --retry-errors, and with --overwrite, which needs a yes."""
    output, shard, text = tmp_path / "out", tmp_path / "a.tar", tmp_path / "text.jpg"
    text.write_text("no picture")
    first, second, *_ = sorted(plate.iterdir())

    def pack(*paths: Path) -> None:
        with tarfile.open(shard, "w") as tar:
            for path in paths:
                tar.add(path, arcname=path.name)

    def names() -> list[str]:
        return [r["uri"].rpartition("#")[2] for r in results(output)]

    pack(first, second, text)
    assert segment(shard, output, *quick)["errors"] == {"NotAnImage": 1}
    pack(first)
    assert segment(shard, output, *quick)["catalogued"] == 3  # what has a row stays
    record = segment(shard, output, *quick, "--retry-errors")
    assert (record["errors_retried"], record["catalogued"], record["images_to_do"]) == (1, 2, 0)
    assert names() == [first.name, second.name]

    before = results(output)
    scores = sorted(before[0]["score"])
    middle = round(scores[len(scores) // 2], 2)
    other = (shard, output, *quick, "--min-score", middle)
    refused = maskfleet("segment", *other)
    assert refused.exit_code == 1
    assert f"min_score 0.1 -> {middle}" in refused.stderr
    assert "--overwrite" in refused.stderr
    unanswered = maskfleet("segment", *other, "--overwrite")
    assert unanswered.exit_code == 1
    assert "--yes" in unanswered.stderr
    assert results(output) == before
    record = segment(*other, "--overwrite", "--yes")
    assert (record["catalogued"], record["done"], record["failed"]) == (1, 1, 0)
    assert names() == [first.name]
    (row,) = results(output)
    assert row["score"] == [score for score in before[0]["score"] if score >= middle]
    (aside,) = (output / "replaced").iterdir()
    (aside.parent / "results").symlink_to(aside)
    assert results(aside.parent) == before
    assert segment(*other, "--overwrite", "--yes")["images_to_do"] == 0  # the same settings: nothing to put aside


def test_an_input_that_is_plainly_wrong_stops_the_job_early(local_ray: None, quick: tuple, tmp_path: Path) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for i in range(3000):
        (folder / f"{i:04d}.jpg").write_text(f"<html>error {i}</html>")
    done = maskfleet("segment", folder, output, *quick, "--max-error-rate", 0.2, "--json")
    assert done.exit_code == 3
    assert "stopped early" in done.stderr
    assert "NotAnImage" in done.stderr
    assert "Traceback" not in done.stderr
    record = json.loads(done.stdout)
    assert record["ended_by"].startswith("TooManyErrorsError: stopped early: ")
    ((reason, count),) = record["reasons"]
    assert reason.startswith("NotAnImage: ")
    assert 600 < count <= 3000
    assert count >= record["stages"]["encode"]["images"]
    (stored,) = (output / "runs").iterdir()
    assert json.loads(stored.read_text()) == record


def test_bad_images_listed_first_stop_no_job_whose_error_rate_is_allowed(
    local_ray: None, quick: tuple, plate: Path, tmp_path: Path
) -> None:
    for path in sorted(plate.iterdir())[1:]:
        path.unlink()
    (good,) = plate.iterdir()
    for i in range(70):
        (plate / f"0-{i:03d}.jpg").write_text("no picture")
    for i in range(379):
        (plate / f"1-{i:03d}.png").hardlink_to(good)
    small = ("--set", "min_size=32", "--set", "max_size=32", "--set", "max_detections=1")
    record = segment(plate, tmp_path / "out", "--max-error-rate", 0.16, *quick, *small)
    assert (record["done"], record["failed"], record["left"]) == (450, 70, 0)
