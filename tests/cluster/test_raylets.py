"""Nodes that die under a job that other nodes go on with: real raylets, killed as a spot instance is."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.faults.jobs import QUICK, Job, run, wait_for
from support.faults.nodes import Nodes

from pipeline.storage import Place, place

pytestmark = pytest.mark.slow


def test_raylets_killed_under_a_job(
    plates: Callable[[int], list[str]], unharmed: Callable[[Place, list[str]], None], tmp_path: Path
) -> None:
    inputs, output = plates(400), place(tmp_path / "out")
    generator = random.Random(2)
    with Nodes(3) as nodes:
        with Job(tmp_path / "plates", output.url, *QUICK, environment=nodes.environment) as job:
            job.until_results(output)
            for _ in range(2):  # the node of the network, each time, and what its neighbours have made of its blocks
                time.sleep(generator.uniform(0, 2))
                node = wait_for(lambda: nodes.busiest("Segment"), "an actor", unless=lambda: job.ended)
                nodes.kill(node)
            nodes.add()
            assert job.wait() == 0, job.log
        again = run(tmp_path / "plates", output.url, *QUICK, environment=nodes.environment)
    unharmed(output, inputs)
    assert again["images_to_do"] == 0, "rows were missing after a job that said it was done"
