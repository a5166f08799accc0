"""Starting a job again with other wishes: failed images once more, other settings, an input that is plainly wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from test_segment import maskfleet, results, segment

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
    refused = maskfleet("segment", plate, output, "--min-score", 0.9, check=False)
    assert refused.returncode == 1
    assert "min_score 0.05 -> 0.9" in refused.stderr
    assert "--overwrite" in refused.stderr
    unanswered = maskfleet("segment", plate, output, "--min-score", 0.9, "--overwrite", check=False)
    assert unanswered.returncode == 1
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


def test_an_input_that_is_plainly_wrong_stops_the_job_early(plate: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(3000):
        (folder / f"{i:04d}.jpg").write_text(f"<html>error {i}</html>")
    done = maskfleet("segment", folder, tmp_path / "out", "--max-error-rate", 0.2, check=False)
    assert done.returncode == 3
    assert "stopped early" in done.stderr
    assert "NotAnImage" in done.stderr
    assert "Traceback" not in done.stderr
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "one.jpg").write_text("no picture")
    done = maskfleet("segment", folder, plate, tmp_path / "second", "--max-error-rate", 0.05, check=False)
    assert done.returncode == 3  # seven are too few to stop for, so it is said at the end
    assert "1 of 7 images failed" in done.stderr
