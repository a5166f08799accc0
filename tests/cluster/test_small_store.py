"""A cluster of CPUs alone, with less memory for blocks than the job's pixels take: nothing goes to disk."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.dataset as pads
import pytest
from PIL import Image
from support.raylets import Raylets

pytestmark = pytest.mark.slow
STORE = 120_000_000
SPILLED = r'^ray_spill_manager_objects_bytes\{.*State="Spilled".*\} (\S+)$'
IMAGES, WIDTH, HEIGHT = 240, 667, 400
# Decode sends such images on as they are; few proposals, so that the network is fast on them.
LARGE = ("--set", f"min_size={HEIGHT}", "--set", f"max_size={WIDTH}")
FAST = ("--set", "rpn_pre_nms=50", "--set", "rpn_post_nms=50")


@pytest.mark.parametrize("gpus", [0, 1])
def test_a_small_object_store_is_enough_and_nothing_is_spilled(gpus: int, photos: Path, tmp_path: Path) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    pictures = [Image.open(path).resize((WIDTH, HEIGHT)) for path in sorted(photos.glob("*.jpg"))]
    for i in range(IMAGES):
        pictures[i % len(pictures)].save(folder / f"{i:02d}.jpg")
    assert IMAGES * WIDTH * HEIGHT * 3 > 1.5 * STORE, "all pixels together must not fit"
    with Raylets() as raylets:
        raylets.add("small", num_cpus=2, num_gpus=gpus, object_store_memory=STORE)
        command = ["python", "-m", "jobs.segment", str(folder), str(output), *LARGE, *FAST]
        raylets.job("submit", "--no-wait", "--submission-id", "small", "--working-dir", ".", "--", *command)
        assert raylets.ended("small", 480) == "SUCCEEDED", raylets.logs("small")
        # A count: it stays when what was spilled has been deleted.
        spilled = re.findall(SPILLED, raylets.scrape(), re.MULTILINE)
        assert {float(value) for value in spilled} == {0.0}
    rows = pads.dataset(str(output / "results"), format="parquet").to_table(columns=["error"])
    assert rows["error"].to_pylist() == [None] * IMAGES
