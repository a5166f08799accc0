"""What all functions that read an output have in common."""

from __future__ import annotations

from pathlib import Path

import pytest
from s3fs import S3FileSystem
from support.results import write_output, write_run

from pipeline.analysis.reader import results_dataset
from pipeline.analysis.sql import connect
from pipeline.errors import InputError
from pipeline.output.counts import counts
from pipeline.output.description import read_description
from pipeline.output.run_record import read_run_records
from pipeline.storage import Place, place


@pytest.mark.parametrize("kept", [0, 3, 0.5, 0.99])
def test_a_file_that_is_still_being_written_is_skipped(output: Place, rows: list[dict], kept: float) -> None:
    whole = Path(output.path, "results", "0.parquet").read_bytes()
    Path(output.path, "results", "9.parquet").write_bytes(whole[: int(kept * len(whole)) if kept < 1 else kept])
    assert counts(output).done == len(rows)
    assert results_dataset(output).count_rows() == len(rows)
    assert read_description(output)["weights"] == "nuclei"
    with connect(output) as connection:
        assert connection.sql("select count(*) from images").fetchall() == [(len(rows),)]


@pytest.mark.parametrize("read", [counts, results_dataset, read_description, connect])
def test_a_folder_that_is_not_an_output_is_refused(read: object, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not an output of maskfleet segment .* maskfleet segment INPUT"):
        read(place(tmp_path))
    with pytest.raises(InputError, match="check the spelling"):
        read(place(tmp_path / "missing"))


@pytest.mark.parametrize("read", [results_dataset, read_description, connect])
def test_an_output_without_results_is_refused(read: object, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no results yet"):
        read(write_output(tmp_path, [], waiting=["a.png"]))


@pytest.mark.slow
def test_an_output_on_s3_reads_like_a_local_one(
    bucket: tuple[S3FileSystem, str], rows: list[dict], output: Place, tmp_path: Path
) -> None:
    fs, name = bucket
    write_run(output, "a", "2026-01-02T10:00:00+00:00")
    fs.put(output.path, f"{name}/out", recursive=True)
    stored = place(f"s3://{name}/out")
    assert counts(stored) == counts(output)
    assert read_description(stored) == read_description(output)
    assert read_run_records(stored) == read_run_records(output)
    assert results_dataset(stored).count_rows() == len(rows)
    with pytest.raises(InputError, match="is not an output"):
        counts(place(f"s3://{name}/elsewhere"))


def test_a_store_that_cannot_be_reached_is_one_line() -> None:
    quickly = {"retries": {"max_attempts": 0}, "connect_timeout": 1}
    options = {"endpoint_url": "http://127.0.0.1:9", "key": "a", "secret": "b", "config_kwargs": quickly}
    nowhere = place("s3://bucket/out", options)
    with pytest.raises(InputError, match="cannot be reached") as caught:
        counts(nowhere)
    assert "\n" not in str(caught.value)
