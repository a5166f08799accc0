"""A cluster without workers, to which Ray's autoscaler adds a node with a small object store for a job."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.dataset as pads
import pytest
from support import large
from support.forkserver import SITE
from support.raylets import ROOT, Raylets

from pipeline.cluster.windows import WINDOWS_IN_STORE

pytestmark = pytest.mark.slow
STORE = 80_000_000  # Ray's least is 75 MB
IMAGES = 120


def test_a_cluster_that_scales_from_nothing_is_asked_for_a_node_whose_memory_is_never_exceeded(
    photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    """As with cluster.yaml: no worker is up when the job starts, and Ray's autoscaler starts the one it waits for.

    Its object store holds less than the job's pixels, and nothing is spilled to disk.
    """
    folder, output = large.large_photos(photos, tmp_path / "in", IMAGES), tmp_path / "out"
    assert IMAGES * large.PIXEL_BYTES > 1.1 * STORE, "all pixels together must not fit"
    machine = {"resources": {"CPU": 2, "GPU": 2, "object_store_memory": STORE}, "node_config": {}}
    with Raylets({"gpu": machine | {"max_workers": 1}}) as raylets:
        command = ["python", "-m", "jobs.segment", str(folder), str(output), *large.OPTIONS, "--workers", "2"]
        command += ["--weights", str(tiny_weights)]
        raylets.submit("zero", command, {"env_vars": {"PYTHONPATH": f"{SITE}:{ROOT}"}})
        assert raylets.ended("zero", 300) == "SUCCEEDED", raylets.logs("zero")
        assert "waiting for a node that has 1 GPU" in raylets.logs("zero")
        assert "Plasma memory usage" in (stats := raylets.memory())
        assert "Spilled" not in stats  # the count stays when what was spilled has been deleted
    rows = pads.dataset(str(output / "results"), format="parquet").to_table(columns=["error"])
    assert rows["error"].to_pylist() == [None] * IMAGES
    (record,) = (json.loads(path.read_text()) for path in (output / "runs").iterdir())
    assert record["resources"]["pool"] == [2, 2]
    assert record["resources"]["window"] == STORE // 2 // (WINDOWS_IN_STORE * large.PIXEL_BYTES)
