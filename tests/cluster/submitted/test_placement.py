"""Where the stages of a job run: actors on GPUs, light work on every node but the head, and nodes that are missing."""

from __future__ import annotations

from pathlib import Path

import pyarrow.dataset as pads
import pytest
from support.fleet import SMALL, ObservedJob, devices, pictures
from support.raylets import ROOT, Raylets

pytestmark = pytest.mark.slow
HERE = {"env_vars": {"PYTHONPATH": str(ROOT)}}


def test_an_actor_a_gpu_light_work_everywhere_and_nothing_on_the_head(
    fleet: Raylets, observed_job: ObservedJob
) -> None:
    kinds, rows = fleet.kinds(), observed_job.stages
    assert sorted(kinds.values()) == ["cpu", "gpu", "head"]
    where = {r["stage"]: {kinds[other["node"]] for other in rows if other["stage"] == r["stage"]} for r in rows}
    assert set(where) == {"fetch", "decode", "segment", "encode"}
    assert where["segment"] == {"gpu"}
    assert where["decode"] == where["encode"] == {"gpu", "cpu"}  # a dozen tasks or more of each, which Ray spreads
    assert sorted(devices(rows).values()) == ["0", "1"]  # one actor a GPU, each its own
    assert max(observed_job.actors) == 2, "actors were asked for beyond the GPUs of the cluster"


def test_a_node_with_the_gpus_of_an_actor_is_waited_for(
    fleet: Raylets, observed_job: ObservedJob, nuclei: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    """A node of two GPUs does not hold an actor of four; the job says so, and does its work when such a node comes.

    What Ray's autoscaler is asked for in the meantime ends with the job.
    """
    folder, output = pictures(nuclei, tmp_path / "in", 20), tmp_path / "out"
    command = ["python", "-m", "jobs.segment", str(folder), str(output), *SMALL, "--gpus-per-worker", "4"]
    command += ["--weights", str(tiny_weights)]

    def begun(name: str, *options: str) -> None:
        fleet.submit(name, [*command, *options], HERE)
        fleet.wait(lambda: "waiting for a node that has 4 GPUs" in fleet.logs(name), 300)
        assert "the largest that is up has 2" in fleet.logs(name)

    begun("stopped", "--workers", "3")
    fleet.wait(lambda: "{'GPU': 4.0}: 3+ pending tasks/actors" in fleet.demand())
    fleet.job("stop", "stopped")
    fleet.wait(lambda: "no resource demands" in fleet.demand())
    begun("four")
    fleet.wait(lambda: "{'GPU': 4.0}: 1+ pending tasks/actors" in fleet.demand())
    fleet.add("four", num_cpus=1, num_gpus=4)
    try:
        assert fleet.ended("four") == "SUCCEEDED", fleet.logs("four")
    finally:
        fleet.remove("four")
    assert pads.dataset(str(output / "results"), format="parquet").count_rows() == 24
