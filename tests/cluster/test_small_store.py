"""Nodes with less memory for blocks than a job's pixels take: nothing goes to disk."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow.dataset as pads
import pytest
from PIL import Image
from support.raylets import ROOT, Raylets

pytestmark = pytest.mark.slow
STORE = 80_000_000  # Ray's least is 75 MB
SPILLED = r'^ray_spill_manager_objects_bytes\{.*State="Spilled".*\} (\S+)$'
IMAGES, WIDTH, HEIGHT = 160, 667, 400
# Decode passes such images on as they are; few proposals, so that the network is fast on them.
LARGE = ("--set", f"min_size={HEIGHT}", "--set", f"max_size={WIDTH}")
FAST = ("--set", "rpn_pre_nms=50", "--set", "rpn_post_nms=50", "--set", "max_detections=10")


@pytest.fixture(scope="module")
def head() -> Iterator[Raylets]:
    """A cluster without nodes to work on."""
    with Raylets() as raylets:
        yield raylets


@pytest.mark.parametrize("gpus", [0, 1])
def test_a_small_object_store_is_enough_and_nothing_is_spilled(
    gpus: int, head: Raylets, photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    folder, output, name = tmp_path / "in", tmp_path / "out", f"gpus-{gpus}"
    folder.mkdir()
    pictures = [Image.open(path).resize((WIDTH, HEIGHT)) for path in sorted(photos.glob("*.jpg"))]
    for i in range(IMAGES):
        pictures[i % len(pictures)].save(folder / f"{i:02d}.jpg")
    assert IMAGES * WIDTH * HEIGHT * 3 > 1.5 * STORE, "all pixels together must not fit"
    head.add(name, num_cpus=2, num_gpus=gpus, object_store_memory=STORE)
    try:
        command = ["python", "-m", "jobs.segment", str(folder), str(output), *LARGE, *FAST, "--weights"]
        head.submit(name, [*command, str(tiny_weights)], {"env_vars": {"PYTHONPATH": str(ROOT)}})
        assert head.ended(name, 480) == "SUCCEEDED", head.logs(name)
        # A count: it stays when what was spilled has been deleted.
        spilled = re.findall(SPILLED, head.scrape(), re.MULTILINE)
        assert spilled
        assert {float(value) for value in spilled} == {0.0}
    finally:
        head.remove(name)
    rows = pads.dataset(str(output / "results"), format="parquet").to_table(columns=["error"])
    assert rows["error"].to_pylist() == [None] * IMAGES
