"""Jobs as a user runs them, in processes of their own, to be killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from pipeline.storage import Place

ROOT = Path(__file__).parents[3]
# One actor, whose network sees little and so is done soon: what is broken here is what is around it.
QUICK = ("--workers", 1, "--set", "min_size=128", "--set", "max_detections=30")
RETRY_SECONDS = 240.0  # seconds: far more than any wait takes on a slow machine


def wait_for(
    happened: Callable[[], Any], what: str, seconds: float = RETRY_SECONDS, unless: Callable[[], Any] = bool
) -> Any:
    """The first true value of `happened`.

    Raises:
        AssertionError: it did not happen in time, or `unless` did first.
    """
    deadline = time.monotonic() + seconds
    while not (value := happened()):
        assert not unless(), f"the job ended before {what}"
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.1)
    return value


class Job:
    """A running `maskfleet segment`, as a context manager that leaves no process behind.

    Args:
        arguments: of the command: inputs, output, options.
        environment: more variables.
    """

    def __init__(self, *arguments: object, environment: dict[str, str] | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="maskfleet-job-")
        self._out, self._err = (Path(self._folder.name) / name for name in ("stdout", "stderr"))
        command = [sys.executable, "-m", "jobs.main", "segment", *map(str, arguments), "--json"]
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                command,
                stdout=out,
                stderr=err,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
            )
        self._seen: dict[int, psutil.Process] = {}

    def __enter__(self) -> Job:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.below()
        self.kill()
        end(list(self._seen.values()))
        self._folder.cleanup()

    @property
    def log(self) -> str:
        """What it has said on stderr so far."""
        return self._err.read_text(errors="replace")

    @property
    def record(self) -> dict[str, Any]:
        """What it printed at its end."""
        return json.loads(self._out.read_text())

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def wait(self, seconds: float = RETRY_SECONDS) -> int:
        """Its exit status."""
        return self.process.wait(seconds)

    def kill(self) -> None:
        """SIGKILL to the driver alone; Ray's processes have to notice."""
        self.below()
        if not self.ended:
            self.process.kill()
            self.process.wait()

    def until_says(self, text: str) -> None:
        """Waits for a piece of text on stderr."""
        wait_for(lambda: text in self.log, f"it said {text!r}:\n{self.log}", unless=lambda: self.ended)

    def until_results(self, output: Place, files: int = 1) -> None:
        """Waits until so many results files lie under an output."""
        results = output.join("results")
        wait_for(lambda: len(results.list(".parquet")) >= files, f"{files} results", unless=lambda: self.ended)

    def until_commits(self, output: Place, files: int) -> None:
        """Waits until so many results files are committed: no restart will do their rows again."""
        wait_for(lambda: commits(output) >= files, f"{files} committed results", unless=lambda: self.ended)

    def below(self) -> list[psutil.Process]:
        """Ray's processes below the driver, which are remembered to be ended with the job."""
        try:
            found = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.Error:
            return []
        self._seen |= {p.pid: p for p in found}
        return found


def commits(output: Place) -> int:
    """How many results files of an output are committed."""
    return sum(".pending" not in p.url for p in output.join("_checkpoint").list(".parquet"))


def workers(processes: list[psutil.Process], name: str) -> list[psutil.Process]:
    """Those of Ray's worker processes whose title, such as `ray::MapWorker(MapBatches(Segment))`, has a name in it."""
    return [p for p in processes if (title := title_of(p)).startswith("ray::") and name in title]


def raylets(processes: list[psutil.Process]) -> list[psutil.Process]:
    """The raylets among some processes."""
    return [p for p in processes if title_of(p).split(" ")[0].endswith("/raylet")]


def title_of(process: psutil.Process) -> str:
    """Its command line; empty if it is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def end(processes: list[psutil.Process]) -> None:
    """SIGKILL to those that are still there."""
    for process in processes:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.Error:
            continue
    psutil.wait_procs(processes, timeout=10)


def run(*arguments: object, environment: dict[str, str] | None = None, status: int = 0) -> dict[str, Any]:
    """Runs the command to its end and gives its record; empty if it printed none."""
    with Job(*arguments, environment=environment) as job:
        code = job.wait()
        assert code == status, f"exit status {code}:\n{job.log}"
        return job.record if code in (0, 3) else {}
