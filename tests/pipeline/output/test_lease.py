"""One job per output: real processes, on a local disk and on a real S3."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from pipeline.errors import InputError
from pipeline.output import lease
from pipeline.output.lease import Lease
from pipeline.storage import Place, place

HOLD = """
import sys, time
from pipeline.output.lease import Lease
from pipeline.storage import place
with Lease(place(sys.argv[1]), "other", print, print):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["disk", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "disk":
        return place(tmp_path / "out")
    _, name = request.getfixturevalue("bucket")
    return place(f"s3://{name}/out")


@pytest.fixture
def holder(output: Place) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lease."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, output.url], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


@pytest.fixture(autouse=True)
def short_takeover_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here no other job takes over at the same moment, so there is no need to wait for one."""
    monkeypatch.setattr(lease, "TAKEOVER_DELAY", 0.1)


def take(output: Place) -> Lease:
    return Lease(output, "mine", lambda error: None, lambda text: None)


def wait_for(condition: Callable[[], object]) -> None:
    """Returns as soon as a condition is true, however slow the machine is."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_second_job_is_refused_and_the_error_names_the_holder(output: Place, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(InputError, match=f"process {holder.pid}") as caught, take(output):
        pass
    assert "run other" in str(caught.value)
    assert lease.read_lease(output)["run"] == "other"


def test_the_lease_of_a_dead_local_process_is_taken_over_at_once(output: Place, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    said: list[str] = []
    with Lease(output, "mine", lambda error: None, said.append):
        assert not said  # it has not waited for the lease to expire
        assert lease.read_lease(output)["run"] == "mine"
    assert lease.read_lease(output) is None


@pytest.mark.slow
def test_a_holder_on_another_machine_is_alive_while_it_sends_heartbeats(
    output: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT", 0.5)
    monkeypatch.setattr(lease, "EXPIRY", 3.0)
    monkeypatch.setattr(lease, "_pid_space", lambda: "another machine")
    first = take(output)
    first.__enter__()
    monkeypatch.undo()
    monkeypatch.setattr(lease, "EXPIRY", 3.0)
    monkeypatch.setattr(lease, "HEARTBEAT", 0.5)
    with pytest.raises(InputError, match="another job"), take(output):
        pass
    first._stop.set()  # no more heartbeats, as if its machine had crashed
    first._thread.join()
    said: list[str] = []
    with Lease(output, "mine", lambda error: None, said.append):
        assert lease.read_lease(output)["run"] == "mine"
    assert "to see if it is alive" in said[0]


@pytest.mark.slow
def test_of_many_jobs_that_start_at_once_one_gets_the_lease(output: Place) -> None:
    held: list[Lease] = []
    refused: list[Exception] = []
    start = threading.Barrier(6)

    def contend() -> None:
        start.wait()
        try:
            held.append(take(output).__enter__())
        except InputError as error:
            refused.append(error)

    threads = [threading.Thread(target=contend) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 1
    assert len(refused) == 5
    held[0].__exit__(None, None, None)


def test_a_holder_that_loses_its_lease_is_told_once(output: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A heartbeat that has already read the lease may overwrite the thief's, who then writes it again."""
    monkeypatch.setattr(lease, "HEARTBEAT", 0.1)
    lost: list[Exception] = []
    with Lease(output, "mine", lost.append, print) as mine:
        stolen = lease.read_lease(output) | {"token": "theirs", "run": "theirs"}

        def told() -> bool:
            output.join(lease.NAME).put(json.dumps(stolen).encode())
            return bool(lost)

        wait_for(told)
        mine._thread.join(60)
        assert not mine._thread.is_alive()  # so nothing tells it again
        assert len(lost) == 1
        assert "run theirs" in str(lost[0])
    assert lease.read_lease(output)["run"] == "theirs"


def test_progress_is_in_the_lease(output: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT", 0.1)
    with take(output) as mine:
        mine.set_progress(images=3)
        wait_for(lambda: lease.read_lease(output)["progress"])
        held = lease.read_lease(output)
        assert held["progress"] == {"images": 3}
        assert held["pid"] == os.getpid()
        assert lease.is_alive(held)


def test_access_denied_is_one_line(bucket: tuple[S3FileSystem, str]) -> None:
    output = place(f"s3://{bucket[1]}/out", {"key": "demo", "secret": "wrong"})
    with pytest.raises(InputError, match="access denied"), take(output):
        pass
