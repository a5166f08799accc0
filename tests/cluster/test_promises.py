"""What a job promises whatever happens: exactly one row each at its end, and one job an output."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.faults.jobs import QUICK, Job, run

from pipeline.storage import Place, place

pytestmark = pytest.mark.slow
Check = Callable[[Place, list[str]], None]


def test_rows_that_are_lost_or_doubled_while_a_job_runs_are_put_right_by_it(
    plates: Callable[[int], list[str]], unharmed: Check, tmp_path: Path
) -> None:
    inputs, output = plates(110), place(tmp_path / "out")
    results = tmp_path / "out" / "results"
    with Job(tmp_path / "plates", output.url, *QUICK) as job:
        job.until_results(output)
        first = next(results.glob("*.parquet"))
        table = pq.read_table(first)
        pq.write_table(table.slice(0, 20), results / f"copy-{first.name}")  # of a machine that was given up for dead
        pq.write_table(table.slice(0, len(table) - 10), tmp_path / "shorter")
        os.replace(tmp_path / "shorter", first)
        assert job.wait() == 0, job.log
        assert (job.record["doubles_removed"], job.record["images_to_do"]) == (20, 110 + 10)
        assert job.record["stages"]["encode"]["images"] > 110  # of both rounds
    unharmed(output, inputs)
    again = next(results.glob("*.parquet"))
    shutil.copy(again, results / f"copy-{again.name}")  # as if a job had been killed before it looked
    run(tmp_path / "plates", output.url, *QUICK)
    unharmed(output, inputs)


def test_one_job_an_output_until_it_is_dead(
    plates: Callable[[int], list[str]], unharmed: Check, tmp_path: Path
) -> None:
    inputs, output = plates(40), place(tmp_path / "out")
    arguments = (tmp_path / "plates", output.url, *QUICK)
    with Job(*arguments) as first:
        first.until_says("segmenting")
        first.process.send_signal(signal.SIGSTOP)  # lest it be done before the second one has started
        with Job(*arguments) as second:
            assert second.wait() == 1
            (said,) = [line for line in second.log.splitlines() if line.startswith("error:")]
            assert all(part in said for part in (output.url, socket.gethostname(), f"process {first.process.pid}"))
            assert "Traceback" not in second.log
        assert not first.ended
        first.kill()
        assert (tmp_path / "out" / "_lease.json").exists()
        with Job(*arguments) as third:  # at once, while the dead one's workers are still there
            assert third.wait() == 0, third.log
            assert "to see if it is alive" not in third.log, "it waited to see whether a dead process lives"
    unharmed(output, inputs)
    assert not (tmp_path / "out" / "_lease.json").exists()
