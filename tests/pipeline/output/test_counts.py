"""Counting the images of an output."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.results import failed, write_output

from pipeline.errors import InputError
from pipeline.output.counts import counts
from pipeline.storage import Place


def test_counts_come_from_the_files(output: Place, rows: list[dict]) -> None:
    now = counts(output)
    assert (now.catalogued, now.done, now.failed, now.left) == (11, 10, 3, 1)
    assert now.instances == sum(len(row["rle"]) for row in rows if row["rle"])
    assert list(now.errors.items()) == [("DamagedImage", 2), ("TooLarge", 1)]


def test_counts_without_statistics_still_find_the_errors(rows: list[dict], tmp_path: Path) -> None:
    now = counts(write_output(tmp_path, rows, write_statistics=False))
    assert now.instances is None
    assert now.errors == {"DamagedImage": 2, "TooLarge": 1}


def test_counts_before_the_first_result(tmp_path: Path) -> None:
    now = counts(write_output(tmp_path, [], waiting=["a.png", "b.png"]))
    assert (now.catalogued, now.done, now.failed, now.left, now.instances, now.errors) == (2, 0, 0, 2, 0, {})


def test_a_damaged_footer_is_reported_with_its_file(output: Place) -> None:
    path = Path(output.path, "results", "0.parquet")
    data = bytearray(path.read_bytes())
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    data[start : start + 200] = bytes([0xFF]) * 200
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"0\.parquet"):
        counts(output)


def test_an_error_without_a_colon_is_a_kind_too(tmp_path: Path) -> None:
    output = write_output(tmp_path, [failed("a.png", "Lost")])
    assert counts(output).errors == {"Lost": 1}
