"""Jobs in child processes, as a user runs them, that can be killed and signalled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from pipeline.storage import Place
from support.forkserver import SITE, fork_of

ROOT = Path(__file__).parents[3]
RETRY_SECONDS = 240.0  # seconds: far more than any wait takes on a slow machine


def wait_for(
    happened: Callable[[], Any], what: str, seconds: float = RETRY_SECONDS, unless: Callable[[], Any] = bool
) -> Any:
    """Waits for the first true value of `happened`, and returns it.

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
                preexec_fn=_take_interrupts,
                env={**os.environ, "PYTHONPATH": f"{SITE}:{ROOT}", **(environment or {})},
            )
        self._seen: dict[int, psutil.Process] = {}

    def __enter__(self) -> Job:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.child_processes()
        self.kill()
        kill_all(list(self._seen.values()))
        self._folder.cleanup()

    @property
    def log(self) -> str:
        """What it has printed on stderr so far."""
        return self._err.read_text(errors="replace")

    @property
    def record(self) -> dict[str, Any]:
        """The record that it printed at its end."""
        return json.loads(self._out.read_text())

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def wait(self, seconds: float = RETRY_SECONDS) -> int:
        """Waits for its end; returns its exit status."""
        return self.process.wait(seconds)

    def kill(self) -> None:
        """Kills the driver alone; Ray's processes have to notice."""
        self.child_processes()
        if not self.ended:
            self.process.kill()
            self.process.wait()

    def wait_for_text(self, text: str) -> None:
        """Waits for a piece of text on stderr."""
        self._wait_for(lambda: text in self.log, repr(text))

    def wait_for_results(self, output: Place, files: int = 1) -> None:
        """Waits until there are so many results files in an output."""
        self._wait_for(lambda: len(output.join("results").list(".parquet")) >= files, f"{files} results")

    def wait_for_commits(self, output: Place, files: int) -> None:
        """Waits until so many results files are committed: no restart will do their rows again."""
        self._wait_for(lambda: commits(output) >= files, f"{files} committed results")

    def _wait_for(self, happened: Callable[[], bool], what: str) -> None:
        try:
            wait_for(happened, what, unless=lambda: self.ended)
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{self.log}") from None

    def child_processes(self) -> list[psutil.Process]:
        """Returns the child processes of the driver, and remembers them to kill them at the end."""
        try:
            found = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.Error:
            return []
        self._seen |= {p.pid: p for p in found}
        return found


def _take_interrupts() -> None:
    """A shell lets what it starts in the background ignore Ctrl-C, and so would the children of the tests."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def commits(output: Place) -> int:
    """Counts the committed results files of an output."""
    return sum(".pending" not in p.url for p in output.join("_checkpoint").list(".parquet"))


def workers(processes: list[psutil.Process], name: str) -> list[psutil.Process]:
    """Finds Ray's worker processes whose title, such as `ray::MapWorker(MapBatches(Segment))`, contains a name.

    Args:
        processes: a driver's or a raylet's processes. Workers are among them, or are forks that one has asked for.
    """
    found = [*processes, *(fork for process in processes if (fork := _fork(process)))]
    return [p for p in found if (title := command_line(p)).startswith("ray::") and name in title]


def _fork(process: psutil.Process) -> psutil.Process | None:
    try:
        return psutil.Process(pid) if (pid := fork_of(process.pid)) else None
    except psutil.NoSuchProcess:
        return None


def raylets(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Finds the raylets among some processes."""
    return [p for p in processes if command_line(p).split(" ")[0].endswith("/raylet")]


def command_line(process: psutil.Process) -> str:
    """Returns the command line of a process; empty if it is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def kill_all(processes: list[psutil.Process]) -> None:
    """Sends SIGKILL to those that are still there, and waits until they run no more."""
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)
    wait_for(lambda: not any(_runs(process) for process in processes), "killed processes to end")


def _runs(process: psutil.Process) -> bool:
    """Whether a process runs. One that has ended stays as a zombie until its parent asks for it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def run(*arguments: object, environment: dict[str, str] | None = None, status: int = 0) -> dict[str, Any]:
    """Runs the command to its end and returns its record; empty if it printed none."""
    with Job(*arguments, environment=environment) as job:
        code = job.wait()
        assert code == status, f"exit status {code}:\n{job.log}"
        return job.record if code in (0, 3) else {}
