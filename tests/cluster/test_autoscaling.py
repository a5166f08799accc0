"""A cluster without workers, to which Ray's autoscaler adds nodes for a job."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.dataset as pads
import pytest
from support.fleet import SMALL, pictures
from support.raylets import ROOT, Raylets

from pipeline.cluster.windows import WINDOWS_IN_STORE

pytestmark = pytest.mark.slow


def test_a_cluster_that_scales_from_nothing_is_asked_for_the_nodes_and_windows_fit_their_memory(
    nuclei: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    """As with cluster.yaml: no worker is up when the job starts, and Ray's autoscaler starts those it waits for."""
    folder, output = pictures(nuclei, tmp_path / "in", 216), tmp_path / "out"
    machine = {"resources": {"CPU": 1, "GPU": 1, "object_store_memory": 80_000_000}, "node_config": {}}
    with Raylets({"gpu": machine | {"max_workers": 2}}) as raylets:
        command = ["python", "-m", "jobs.segment", str(folder), str(output), *SMALL, "--workers", "2"]
        command += ["--weights", str(tiny_weights)]
        raylets.submit("zero", command, {"env_vars": {"PYTHONPATH": str(ROOT)}})
        assert raylets.ended("zero", 300) == "SUCCEEDED", raylets.logs("zero")
        assert "waiting for a node that has 1 GPU" in raylets.logs("zero")
    assert pads.dataset(str(output / "results"), format="parquet").count_rows() == 220
    (record,) = (json.loads(path.read_text()) for path in (output / "runs").iterdir())
    assert record["resources"]["pool"] == [2, 2]
    assert record["resources"]["window"] == 80_000_000 // (WINDOWS_IN_STORE * 128 * 1024 * 3)
