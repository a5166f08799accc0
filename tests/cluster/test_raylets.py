"""Nodes that die while others continue the job: real raylets, killed as a spot instance is."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.commands import segment
from support.faults.jobs import Job, wait_for
from support.faults.nodes import Nodes

from pipeline.storage import Place, place

pytestmark = pytest.mark.slow


def test_raylets_killed_under_a_job(
    quick: tuple,
    add_images: Callable[[int], list[str]],
    assert_undisturbed: Callable[[Place, list[str]], None],
    tmp_path: Path,
) -> None:
    inputs, output = add_images(240), place(tmp_path / "out")
    generator = random.Random(2)
    with Nodes(2) as nodes, Job(tmp_path / "plates", output.url, *quick, environment=nodes.environment) as job:
        job.wait_for_results(output)
        # Each time the node with the actor, and with it the blocks that other nodes have read.
        nodes.kill(node_of_actor(nodes, job, generator))
        job.process.send_signal(signal.SIGSTOP)  # so that the job is not done before the other node is there
        nodes.add()
        job.process.send_signal(signal.SIGCONT)
        nodes.kill(node_of_actor(nodes, job, generator))
        assert job.wait() == 0, job.log
        assert job.record["done"] == len(inputs)  # nothing that Ray printed stands in the way of the JSON
    again = segment(tmp_path / "plates", output.url, *quick)
    assert_undisturbed(output, inputs)
    assert again["images_to_do"] == 0, "rows were missing after a job that said it was done"


def node_of_actor(nodes: Nodes, job: Job, generator: random.Random) -> int:
    time.sleep(generator.uniform(0, 1))
    return wait_for(lambda: nodes.node_of_worker("Segment"), "an actor", unless=lambda: job.ended)
