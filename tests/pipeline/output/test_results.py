"""Changes to results files: removing duplicates, errors and partial files, moving files to replaced/."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.results import failed, segmented, table, write_output

from pipeline.output import results
from pipeline.schema import image_id
from pipeline.storage import Place, place
from pipeline.storage.atomic_files import results_filesystem


def write(output: Place, files: dict[str, list[tuple[int, bool]]]) -> None:
    """Writes results files of rows (number of the image, whether it succeeded)."""
    os.makedirs(output.join("results").path, exist_ok=True)
    for name, rows in files.items():
        made = [segmented(f"{n}.png", 8, 8, []) if good else failed(f"{n}.png", "DamagedImage: x") for n, good in rows]
        pq.write_table(table(made), output.join("results", name).path)


def read(output: Place) -> list[tuple[str, str | None]]:
    rows = pads.dataset(output.join("results").path, format="parquet").to_table(columns=["uri", "error"]).to_pylist()
    return sorted((r["uri"], r["error"]) for r in rows)


@given(st.lists(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=12), min_size=1, max_size=4))
@settings(deadline=None, max_examples=40)
def test_of_duplicate_rows_one_without_an_error_stays(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[tuple[int, bool]]]
) -> None:
    output = place(tmp_path_factory.mktemp("out"))
    write(output, {f"{i}.parquet": rows for i, rows in enumerate(files)})
    every = [row for rows in files for row in rows]
    removed = results.remove_duplicates(output, results.done_ids(output))
    numbers = {n for n, _ in every}
    assert removed == len(every) - len(numbers)
    left = read(output)
    assert [uri for uri, _ in left] == sorted(f"{n}.png" for n in numbers)
    for uri, error in left:
        assert (error is None) == any(good for n, good in every if f"{n}.png" == uri)
    assert np.array_equal(results.done_ids(output), np.sort([image_id(f"{n}.png") for n in numbers]))


def test_removing_errors_leaves_other_rows_and_files_untouched(tmp_path: Path) -> None:
    output = place(tmp_path)
    write(output, {"a.parquet": [(1, True), (2, False)], "b.parquet": [(3, False)], "c.parquet": [(4, True)]})
    before = output.join("results", "c.parquet").fs.cat_file(output.join("results", "c.parquet").path)
    assert results.remove_errors(output) == 2
    assert read(output) == [("1.png", None), ("4.png", None)]
    assert sorted(p.name for p in output.join("results").list("")) == ["a.parquet", "c.parquet"]
    assert Path(output.join("results", "c.parquet").path).read_bytes() == before
    schema = pq.read_schema(output.join("results", "a.parquet").path)
    assert schema.equals(pq.read_schema(output.join("results", "c.parquet").path), check_metadata=True)


def test_an_interrupted_move_to_replaced_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = place(tmp_path)
    write(output, {f"{i}.parquet": [(i, True)] for i in range(4)})
    put, calls = Place.put, []

    def interrupted(self: Place, data: bytes, parts: Place) -> None:
        calls.append(self)
        if len(calls) == 3:
            raise KeyboardInterrupt
        put(self, data, parts)

    monkeypatch.setattr(Place, "put", interrupted)
    with pytest.raises(KeyboardInterrupt):
        results.move_to_replaced(output, "then")
    monkeypatch.setattr(Place, "put", put)
    here, there = output.join("results").list(".parquet"), output.join("replaced", "then").list(".parquet")
    assert sorted(p.name for p in here + there) == [f"{i}.parquet" for i in range(4)]
    assert results.move_to_replaced(output, "then") == 2
    assert len(output.join("replaced", "then").list(".parquet")) == 4


# The kernel kills the process in the middle of a write, or the write fails.
LIMITED = """
import resource, signal, sys
from pipeline.output import results
from pipeline.storage import place
if sys.argv[2] == "killed":
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
results.remove_errors(place(sys.argv[1]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["killed", "raises"])
def test_an_interrupted_removal_of_errors_leaves_the_results_complete(ends: str, tmp_path: Path) -> None:
    output = place(tmp_path)
    write(output, {"a.parquet": [(n, n > 1) for n in range(20)]})
    before = read(output)
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path), ends], capture_output=True, text=True)
    if ends == "killed":
        assert done.returncode == -signal.SIGXFSZ
    else:
        assert "File too large" in done.stderr
    assert read(output) == before  # reads every file in the folder
    left = [p for p in tmp_path.rglob("*") if p.is_file() and p.name != "a.parquet"]
    assert [p.stat().st_size for p in left] == ([500] if ends == "killed" else [])
    results.remove_partial_files(output)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["a.parquet"]
    assert results.remove_errors(output) == 2


def test_only_files_of_pending_checkpoints_are_removed(tmp_path: Path) -> None:
    output = write_output(tmp_path / "out", [segmented(f"{n}.png", 8, 8, []) for n in range(3)], files=3)
    folder = Path(output.path)
    (folder / "_checkpoint" / "parts").mkdir(parents=True)
    for name in ("u_0_1.pending.parquet", "u_0_2.parquet", "parts/u_0_1.parquet.abc"):
        (folder / "_checkpoint" / name).write_bytes(b"x")
    for name in ("u_0_1.parquet", "u_0_1-0.parquet", "u_0_10.parquet", "u_0_2.parquet"):
        (folder / "results" / name).write_bytes(b"x")
    assert results.remove_partial_files(output) == 1
    assert results.remove_partial_files(output) == 0
    names = {p.name for p in (folder / "results").iterdir()}
    assert names == {"0.parquet", "1.parquet", "2.parquet", "u_0_10.parquet", "u_0_2.parquet"}
    assert [p.name for p in (folder / "_checkpoint").rglob("*") if p.is_file()] == ["u_0_2.parquet"]


def test_a_results_file_on_a_local_disk_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    output = place(tmp_path)
    target = Path(output.join("results", "a.parquet").path)
    filesystem = results_filesystem(output)
    whole = table([segmented("1.png", 8, 8, [])])
    with filesystem.open_output_stream(str(target)) as stream:
        pq.write_table(whole, stream)
        assert not target.exists()
        assert len(list((tmp_path / "_checkpoint" / "parts").iterdir())) == 1
    assert pq.read_table(target).equals(whole)

    def interrupted() -> None:
        with filesystem.open_output_stream(str(target) + "2") as stream:
            stream.write(target.read_bytes()[:100])
            raise OSError("no space on the disk")

    with pytest.raises(OSError, match="disk"):
        interrupted()
    assert [p.name for p in target.parent.iterdir()] == ["a.parquet"]
    assert not list((tmp_path / "_checkpoint" / "parts").iterdir())
