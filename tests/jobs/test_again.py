"""Starting a job again with other wishes: failed images once more, other settings, an input that is plainly wrong."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest
from test_segment import maskfleet, planned, results, segment

pytestmark = pytest.mark.slow


def test_failed_images_are_tried_again_and_no_others(plate: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    whole = sorted(plate.iterdir())
    broken = [plate / "cut.png", plate / "text.jpg"]
    broken[0].write_bytes(whole[0].read_bytes()[:2000])
    broken[1].write_text("no picture")
    assert segment(plate, output)["errors"] == {"DamagedImage": 1, "NotAnImage": 1}
    before = {r["uri"]: r for r in results(output) if r["error"] is None}
    shutil.copy(whole[0], broken[0])
    assert segment(plate, output)["images_to_do"] == 0  # not unless asked
    record = segment(plate, output, "--retry-errors")
    assert (record["errors_retried"], record["images_to_do"], record["done"]) == (2, 2, 8)
    assert record["errors"] == {"NotAnImage": 1}
    rows = {r["uri"]: r for r in results(output)}
    assert len(rows) == len(results(output)) == 8
    assert {uri: rows[uri] for uri in before} == before
    assert rows[str(broken[0])]["rle"] == rows[str(whole[0])]["rle"]


def test_other_settings_put_the_old_results_aside_when_that_is_confirmed(plate: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    segment(plate, output)
    before = results(output)
    refused = planned(plate, output, "--min-score", 0.9)
    assert refused.exit_code == 1
    assert "min_score 0.05 -> 0.9" in refused.stderr
    assert "--overwrite" in refused.stderr
    unanswered = planned(plate, output, "--min-score", 0.9, "--overwrite")
    assert unanswered.exit_code == 1
    assert "--yes" in unanswered.stderr
    assert results(output) == before
    record = segment(plate, output, "--min-score", 0.9, "--overwrite", "--yes")
    assert record["images_to_do"] == 6
    assert all(min(r["score"], default=1) >= 0.9 for r in results(output))
    (aside,) = (output / "replaced").iterdir()
    (aside.parent / "results").symlink_to(aside)
    assert results(aside.parent) == before
    again = segment(plate, output, "--min-score", 0.9, "--overwrite", "--yes")
    assert again["images_to_do"] == 0  # the same settings: nothing to put aside


def contents(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_mistyped_input_changes_nothing(plate: Path, tmp_path: Path) -> None:
    output, empty = tmp_path / "out", tmp_path / "empty"
    empty.mkdir()
    (plate / "text.jpg").write_text("no picture")
    segment(plate, output)
    before = contents(output)
    aside = ("--overwrite", "--yes", "--min-score", 0.9)
    for inputs in ((tmp_path / "typo",), (plate, tmp_path / "typo"), (plate, empty)):
        for wish in (("--retry-errors",), aside, (*aside, "--retry-errors"), ("--retry-errors", "--plan")):
            done = planned(*inputs, output, *wish)
            assert done.exit_code == 1
            assert str(inputs[-1]) in done.stderr
            assert contents(output) == before


def test_what_is_gone_from_its_shard_is_not_owed_once_its_row_goes(plate: Path, tmp_path: Path) -> None:
    """With other settings and --overwrite, as with --retry-errors, its row was the last thing that knew of it."""
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
    assert segment(shard, output)["errors"] == {"NotAnImage": 1}
    pack(first)
    assert segment(shard, output)["catalogued"] == 3  # what has a row stays
    record = segment(shard, output, "--retry-errors")
    assert (record["errors_retried"], record["catalogued"], record["images_to_do"]) == (1, 2, 0)
    assert names() == [first.name, second.name]
    record = segment(shard, output, "--overwrite", "--yes", "--min-score", 0.9)
    assert (record["catalogued"], record["done"], record["failed"]) == (1, 1, 0)
    assert names() == [first.name]


def test_an_input_that_is_plainly_wrong_stops_the_job_early(plate: Path, tmp_path: Path) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for i in range(3000):
        (folder / f"{i:04d}.jpg").write_text(f"<html>error {i}</html>")
    done = maskfleet("segment", folder, output, "--max-error-rate", 0.2, "--json", check=False)
    assert done.returncode == 3
    assert "stopped early" in done.stderr
    assert "NotAnImage" in done.stderr
    assert "Traceback" not in done.stderr
    record = json.loads(done.stdout)
    assert record["ended_by"].startswith("TooManyErrorsError: stopped early: ")
    ((reason, count),) = record["reasons"]
    assert reason.startswith("NotAnImage: ")
    assert 600 < count <= 3000
    assert count >= record["stages"]["encode"]["images"]
    (kept,) = (output / "runs").iterdir()
    assert json.loads(kept.read_text()) == record
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "one.jpg").write_text("no picture")
    done = maskfleet("segment", folder, plate, tmp_path / "second", "--max-error-rate", 0.05, "--json", check=False)
    assert done.returncode == 3  # seven are too few to stop for, so it is said at the end
    assert "1 of 7 images failed" in done.stderr
    assert json.loads(done.stdout)["ended_by"] is None


def test_bad_images_listed_first_stop_no_job_whose_share_is_allowed(plate: Path, tmp_path: Path) -> None:
    for path in sorted(plate.iterdir())[1:]:
        path.unlink()
    (good,) = plate.iterdir()
    for i in range(140):
        (plate / f"0-{i:03d}.jpg").write_text("no picture")
    for i in range(759):
        (plate / f"1-{i:03d}.png").hardlink_to(good)
    quick = ("--set", "min_size=32", "--set", "max_size=32", "--set", "max_detections=1")
    record = segment(plate, tmp_path / "out", "--max-error-rate", 0.16, *quick)
    assert (record["done"], record["failed"], record["left"]) == (900, 140, 0)
