"""Where the stages of a job run: actors on GPUs, light work on every node but the head, and nodes that are missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.fleet import ContinuedJob, devices
from support.forkserver import SITE
from support.raylets import ROOT, Raylets

pytestmark = pytest.mark.slow
HERE = {"env_vars": {"PYTHONPATH": f"{SITE}:{ROOT}"}}


def test_an_actor_has_its_gpu_or_its_share_of_one(continued_job: ContinuedJob) -> None:
    assert sorted(devices(continued_job.stopped_stages).values()) == ["0", "1"]
    assert list(devices(continued_job.stages).values()) == ["0", "0"]


def test_light_work_runs_on_every_node_but_the_head(fleet: Raylets, continued_job: ContinuedJob) -> None:
    kinds, rows = fleet.kinds(), continued_job.stages
    assert sorted(kinds.values()) == ["cpu", "gpu", "head"]
    where = {r["stage"]: {kinds[other["node"]] for other in rows if other["stage"] == r["stage"]} for r in rows}
    assert set(where) == {"fetch", "decode", "segment", "encode"}
    assert where["segment"] == {"gpu"}
    assert where["decode"] | where["encode"] == {"gpu", "cpu"}  # Ray spreads the tasks


def test_a_job_says_which_node_it_waits_for_and_its_demand_ends_with_it(
    fleet: Raylets, continued_job: ContinuedJob, plate: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    """A node of two GPUs does not hold an actor of four. That a job goes on when nodes come: see test_autoscaling."""
    command = ["python", "-m", "jobs.segment", str(plate), str(tmp_path / "out"), "--gpus-per-worker", "4"]
    fleet.submit("waiting", [*command, "--weights", str(tiny_weights), "--workers", "3"], HERE)
    fleet.wait(lambda: "waiting for a node that has 4 GPUs" in fleet.logs("waiting"), 300)
    assert "the largest that is up has 2" in fleet.logs("waiting")
    fleet.wait(lambda: "{'GPU': 4.0}: 3+ pending tasks/actors" in fleet.demand())
    fleet.job("stop", "waiting")
    fleet.wait(lambda: "no resource demands" in fleet.demand())
