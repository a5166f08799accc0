"""A cluster of CPUs alone, with little memory for blocks: the same command, and nothing goes to disk."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pyarrow.dataset as pads
import pytest
from raylets import Raylets

pytestmark = pytest.mark.slow
STORE = 300_000_000


def test_a_small_object_store_is_enough_and_nothing_is_spilled(photos: Path, tmp_path: Path) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    sources = sorted(photos.glob("*.jpg"))
    for i in range(60):
        shutil.copy(sources[i % len(sources)], folder / f"{i:02d}.jpg")
    with Raylets() as raylets:
        raylets.add("small", num_cpus=2, object_store_memory=STORE)
        command = ["python", "-m", "jobs.segment", str(folder), str(output), "--set", "min_size=256"]
        raylets.job("submit", "--no-wait", "--submission-id", "small", "--working-dir", ".", "--", *command)
        assert raylets.ended("small") == "SUCCEEDED", raylets.logs("small")
        spilled = re.findall(r"^ray_spill_manager_objects_bytes\{.*\} (\S+)$", raylets.scrape(), re.MULTILINE)
        assert spilled
        assert {float(value) for value in spilled} == {0.0}
        assert not [p for p in raylets.folder.glob("small/session_*/ray_spilled_objects*/*") if p.is_file()]
    assert pads.dataset(str(output / "results"), format="parquet").count_rows() == 60
