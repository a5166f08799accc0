"""SIGKILL to a job's driver, its raylet and its workers, at random times, on one machine."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.faults.jobs import QUICK, Job, commits, end, raylets, run, wait_for, workers

from pipeline.storage import Place, place

pytestmark = pytest.mark.slow
Check = Callable[[Place, list[str]], None]


def test_driver_and_raylet_killed_again_and_again(
    plates: Callable[[int], list[str]], unharmed: Check, tmp_path: Path
) -> None:
    output, generator = place(tmp_path / "out"), random.Random(0)
    arguments = (tmp_path / "plates", output.url, *QUICK)
    with ExitStack() as jobs:  # a killed driver's workers may write for seconds yet, and the next run must bear it
        for victim in ("raylet", "driver"):
            inputs, committed = plates(64), commits(output)
            job = jobs.enter_context(Job(*arguments))
            job.until_commits(output, committed + 1)
            time.sleep(generator.uniform(0, 1))
            if victim == "driver":
                job.kill()
            else:
                end(raylets(job.below()))
                job.wait()  # Ray ends the driver too, unless it was done by then
        inputs = plates(8)
        job = jobs.enter_context(Job(*arguments))
        job.until_says("segmenting")
        time.sleep(generator.uniform(0, 8))
        job.kill()
        record = run(*arguments)
    unharmed(output, inputs)
    assert record["images_before"] > 0
    assert record["images_before"] + record["images_to_do"] == len(inputs)


def test_workers_killed_while_the_job_goes_on(
    plates: Callable[[int], list[str]], unharmed: Check, tmp_path: Path
) -> None:
    inputs, output = plates(80), place(tmp_path / "out")
    generator = random.Random(1)
    killed = 0
    with Job(tmp_path / "plates", output.url, *QUICK) as job:
        job.until_says("segmenting")
        for name in ("Segment", "Fetch", "_Register", "Segment"):
            wait_for(lambda n=name: job.ended or workers(job.below(), n), f"a worker of {name}")
            time.sleep(generator.uniform(0, 1))
            victims = workers(job.below(), name)
            killed += len(victims)
            end(victims)
        assert job.wait() == 0, job.log
    assert killed >= 2
    unharmed(output, inputs)
