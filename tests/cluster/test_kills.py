"""SIGKILL to a job's driver, its raylet and its workers, on one machine, and one job for an output at a time."""

from __future__ import annotations

import random
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import ray
from support.commands import in_background, maskfleet, segment
from support.faults.jobs import Job, commits, kill_all, raylets, wait_for, workers

from pipeline.storage import Place, place

pytestmark = pytest.mark.slow
Check = Callable[[Place, list[str]], None]


def test_a_job_that_is_ended_again_and_again_continues(
    quick: tuple, add_images: Callable[[int], list[str]], assert_undisturbed: Check, tmp_path: Path
) -> None:
    """Its raylet is killed, then its driver, while a second job asks for the same output; then it is interrupted.

    The first starts a Ray of its own, the others join the one of the tests.
    """
    output, generator = place(tmp_path / "out"), random.Random(0)
    arguments = (tmp_path / "plates", output.url, *quick)
    shared = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    with ExitStack() as jobs:  # a killed driver's workers may write for seconds yet, and the next run must bear it
        add_images(48)
        first = jobs.enter_context(Job(*arguments))
        first.wait_for_commits(output, 1)
        time.sleep(generator.uniform(0, 1))
        kill_all(raylets(first.child_processes()))
        first.wait()  # Ray ends the driver too, unless it was done by then

        add_images(48)
        committed = commits(output)
        second = jobs.enter_context(Job(*arguments, environment=shared))
        second.wait_for_commits(output, committed + 1)
        second.process.send_signal(signal.SIGSTOP)  # so that it is not done before it is killed
        _assert_refused(output, second, *arguments)
        second.kill()
        assert (tmp_path / "out" / "_lease.json").exists()

        inputs = add_images(16)
        # At once, while the dead one's workers are still there.
        third = jobs.enter_context(Job(*arguments, environment=shared))
        third.wait_for_text("segmenting")
        assert "to see if it is alive" not in third.log, "it waited to see whether a dead process lives"
        time.sleep(generator.uniform(0, 2))  # its actor takes longer to start
        third.process.send_signal(signal.SIGINT)
        assert third.wait() == 130, third.log
        assert "nothing finished is lost" in third.log
        assert not (tmp_path / "out" / "_lease.json").exists()
        record = segment(*arguments)
    assert_undisturbed(output, inputs)
    assert record["images_before"] > 0
    assert record["images_before"] + record["images_to_do"] == len(inputs)


def _assert_refused(output: Place, holder: Job, *arguments: object) -> None:
    """Fails unless a second job for the same output ends at once and names the process that has it."""
    refused = maskfleet("segment", *arguments)
    assert refused.exit_code == 1
    (said,) = [line for line in refused.stderr.splitlines() if line.startswith("error:")]
    assert all(part in said for part in (output.url, socket.gethostname(), f"process {holder.process.pid}"))
    assert "Traceback" not in refused.stderr
    assert not holder.ended


def test_workers_killed_while_the_job_goes_on(
    quick: tuple, add_images: Callable[[int], list[str]], assert_undisturbed: Check, tmp_path: Path
) -> None:
    inputs, output = add_images(80), place(tmp_path / "out")
    generator, killed = random.Random(1), list[psutil.Process]()

    def kill(ended: threading.Event) -> None:
        for name in ("Segment", "Fetch", "_Register", "Segment"):
            wait_for(lambda n=name: ended.is_set() or below(n), f"a worker of {name}")
            time.sleep(generator.uniform(0, 1))
            victims = below(name)
            killed.extend(victims)
            kill_all(victims)

    def below(name: str) -> list[psutil.Process]:
        return workers(psutil.Process().children(recursive=True), name)

    with in_background(kill):
        done = maskfleet("segment", tmp_path / "plates", output.url, *quick)
    assert done.exit_code == 0, done.stderr
    assert len(killed) >= 2
    assert_undisturbed(output, inputs)
