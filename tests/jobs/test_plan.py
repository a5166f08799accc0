"""`segment --plan`: totals and an estimate, nothing segmented."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_segment import maskfleet, segment

pytestmark = pytest.mark.slow


def test_a_plan_counts_and_samples_and_segments_nothing(plate: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    (plate / "text.jpg").write_text("no picture")
    plan = segment(plate, output, "--plan")
    assert (plan["images"], plan["left"], plan["unsized"], plan["kinds"]) == (7, 7, 0, {"image": 7})
    assert plan["bytes"] == sum(p.stat().st_size for p in plate.iterdir())
    assert (plan["sample"]["images"], plan["sample"]["failed"]) == (7, 1)
    assert plan["seconds_here"] == pytest.approx(7 * plan["sample"]["seconds_per_image"], abs=0.1)
    assert not (output / "results").exists()
    assert not (output / "_lease.json").exists()
    record = segment(plate, output)
    shown = maskfleet("segment", plate, output, "--plan").stdout
    assert "left        0 images" in shown
    (plate / "another.png").write_bytes(next(plate.glob("*.png")).read_bytes())
    plan = segment(plate, output, "--plan")
    assert (plan["images"], plan["left"], plan["last_rate"]) == (8, 1, record["images_per_second"])
    shown = maskfleet("segment", plate, output, "--plan").stdout
    assert "on this machine alone" in shown
    assert "at the last run's" in shown
