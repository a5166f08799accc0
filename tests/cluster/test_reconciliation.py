"""A job holds its results against its catalog before it ends: lost rows are done again, doubled ones removed."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.commands import in_background, segment
from support.faults.jobs import wait_for

from pipeline.storage import Place, place

pytestmark = pytest.mark.slow


def test_rows_that_are_lost_or_doubled_while_a_job_runs_are_put_right_by_it(
    quick: tuple,
    add_images: Callable[[int], list[str]],
    assert_undisturbed: Callable[[Place, list[str]], None],
    tmp_path: Path,
) -> None:
    inputs, output = add_images(110), place(tmp_path / "out")
    results = tmp_path / "out" / "results"

    def tamper(ended: threading.Event) -> None:
        wait_for(lambda: any(results.glob("*.parquet")), "results", unless=ended.is_set)
        first = next(results.glob("*.parquet"))
        table = pq.read_table(first)
        pq.write_table(table.slice(0, 20), results / f"copy-{first.name}")  # of a machine that was given up for dead
        pq.write_table(table.slice(0, len(table) - 10), tmp_path / "shorter")
        os.replace(tmp_path / "shorter", first)

    with in_background(tamper):
        record = segment(tmp_path / "plates", output.url, *quick)
    assert (record["doubles_removed"], record["images_to_do"]) == (20, 110 + 10)
    assert record["stages"]["encode"]["images"] > 110  # of both rounds
    assert_undisturbed(output, inputs)
    again = next(results.glob("*.parquet"))
    shutil.copy(again, results / f"copy-{again.name}")  # as if a job had been killed before it looked
    segment(tmp_path / "plates", output.url, *quick)
    assert_undisturbed(output, inputs)
