"""Records of runs."""

from __future__ import annotations

from support.results import write_run

from pipeline.output.run_record import read_run_records
from pipeline.storage import Place


def test_run_records_oldest_first(output: Place) -> None:
    assert read_run_records(output) == []
    write_run(output, "b", "2026-01-01T10:00:00+00:00")
    write_run(output, "a", "2026-01-02T10:00:00+00:00")
    assert [r["run"] for r in read_run_records(output)] == ["b", "a"]
