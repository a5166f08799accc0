"""What a job promises whatever happens: one row each, deadly images as errors, one job an output, errors retried."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.check import Row, assert_exact, differences, rows_of
from faults.images import original
from faults.jobs import ROOT, Job, run

from pipeline.storage import Place, place

pytestmark = pytest.mark.slow
Check = Callable[[Place, list[str]], None]

# Every process of the job reads this first: a decoder with a fault, as real ones have had, and one that is
# killed for the memory it takes. The size of an image says which it meets.
FAULTY_DECODER = """
import os, signal
from PIL import PngImagePlugin
load = PngImagePlugin.PngImageFile.load
def faulty(self):
    if self.size in ((61, 67), (67, 61)):
        os.kill(os.getpid(), signal.SIGSEGV if self.size == (61, 67) else signal.SIGKILL)
    return load(self)
PngImagePlugin.PngImageFile.load = faulty
"""


def test_rows_that_are_lost_or_doubled_while_a_job_runs_are_put_right_by_it(
    plates: Callable[[int], list[str]], unharmed: Check, tmp_path: Path
) -> None:
    inputs, output = plates(110), place(tmp_path / "out")
    results = tmp_path / "out" / "results"
    with Job(tmp_path / "plates", output.url, "--workers", 1) as job:
        job.until_results(output)
        first = next(results.glob("*.parquet"))
        shutil.copy(first, results / f"copy-{first.name}")
        job.until_results(output, 3)
        second = next(p for p in sorted(results.glob("*.parquet")) if first.name not in p.name)
        second.unlink()
        assert job.wait() == 0, job.log
    unharmed(output, inputs)
    again = next(results.glob("*.parquet"))
    shutil.copy(again, results / f"copy-{again.name}")  # as if a job had been killed before it looked
    run(tmp_path / "plates", output.url, "--workers", 1)
    unharmed(output, inputs)


def test_images_that_kill_their_process_are_error_rows(
    sources: list[Path], plates: Callable[[int], list[str]], reference: dict[str, Row], tmp_path: Path
) -> None:
    from PIL import Image

    inputs, output = plates(40), place(tmp_path / "out")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(FAULTY_DECODER)
    deadly = []
    for name, size in {"0005-a.png": (61, 67), "0006-b.png": (67, 61), "0030-c.png": (61, 67)}.items():
        path = tmp_path / "plates" / name
        Image.new("RGB", size).save(path)
        deadly.append(str(path))
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(ROOT)])}
    record = run(tmp_path / "plates", output.url, "--workers", 1, environment=environment)
    assert_exact(output, [*inputs, *deadly])
    assert record["errors"] == {"WorkerDied": 3}
    rows = rows_of(output)
    assert {uri for uri, row in rows.items() if row["error"]} == set(deadly)
    assert all(rows[uri]["error"].startswith("WorkerDied: ") for uri in deadly)
    assert not differences({uri: rows[uri] for uri in inputs}, reference, original)


def test_a_second_job_on_the_same_output_is_refused(
    plates: Callable[[int], list[str]], unharmed: Check, tmp_path: Path
) -> None:
    inputs, output = plates(40), place(tmp_path / "out")
    arguments = (tmp_path / "plates", output.url, "--workers", 1)
    with Job(*arguments) as first:
        first.until_says("segmenting")
        with Job(*arguments) as second:
            assert second.wait() == 1
            (said,) = [line for line in second.log.splitlines() if line.startswith("error:")]
            assert all(part in said for part in (output.url, socket.gethostname(), f"process {first.process.pid}"))
            assert "Traceback" not in second.log
        assert first.wait() == 0, first.log
    unharmed(output, inputs)
    assert not (tmp_path / "out" / "_lease.json").exists()


def test_a_job_follows_one_that_was_killed_at_once(plates: Callable[[int], list[str]], tmp_path: Path) -> None:
    inputs, output = plates(12), place(tmp_path / "out")
    arguments = (tmp_path / "plates", output.url, "--workers", 1)
    with Job(*arguments) as first:
        first.until_says("segmenting")
        first.kill()
        assert (tmp_path / "out" / "_lease.json").exists()
        began = time.monotonic()
        with Job(*arguments) as second:
            second.until_says("segmenting")
            assert "seeing for" not in second.log
            assert second.wait() == 0, second.log
        assert began
    assert_exact(output, inputs)


def test_errors_are_tried_again_when_asked(
    sources: list[Path], plates: Callable[[int], list[str]], unharmed: Check, tmp_path: Path
) -> None:
    inputs, output = plates(20), place(tmp_path / "out")
    arguments = (tmp_path / "plates", output.url, "--workers", 1)
    broken = {Path(inputs[3]): b"", Path(inputs[9]): b"<html>404</html>", Path(inputs[15]): b"\x89PNG\r\n\x1a\n"}
    for path, data in broken.items():
        path.write_bytes(data)
    assert run(*arguments)["errors"] == {"EmptyFile": 1, "NotAnImage": 1, "DamagedImage": 1}
    assert_exact(output, inputs)
    mended = list(broken)[:2]
    for path in mended:
        shutil.copy(next(p for p in sources if p.name == original(path.name)), path)
    record = run(*arguments, "--retry-errors")
    assert (record["images_to_do"], record["images_before"], record["failed"]) == (3, 17, 1)
    assert_exact(output, inputs)
    shutil.copy(sources[15 % len(sources)], list(broken)[2])
    assert run(*arguments, "--retry-errors")["images_to_do"] == 1
    unharmed(output, inputs)


def test_an_input_that_is_plainly_wrong_ends_the_job_early(tmp_path: Path, plates: Callable[[int], list[str]]) -> None:
    inputs, output = plates(4), place(tmp_path / "out")
    for i in range(3000):
        path = tmp_path / "plates" / f"1{i:04d}.jpg"
        path.write_text(f"<html>{i % 2} not found</html>" if i % 3 else "")
        inputs.append(str(path))
    arguments = (tmp_path / "plates", output.url, "--workers", 1, "--max-error-rate", 0.1)
    with Job(*arguments) as job:
        assert job.wait() == 3, job.log
        assert "EmptyFile: 0 bytes" in job.log
        assert "NotAnImage: begins with" in job.log
        assert "--max-error-rate 0.1" in job.log
        assert "Traceback" not in job.log
    run(tmp_path / "plates", output.url, "--workers", 1)
    assert_exact(output, inputs)
