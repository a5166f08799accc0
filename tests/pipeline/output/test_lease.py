"""One job per output: real processes, on a local disk and on a real S3."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
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


def test_a_second_job_is_refused_and_the_error_names_the_holder(output: Place, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(InputError, match=f"process {holder.pid}") as caught, take(output):
        pass
    assert "run other" in str(caught.value)
    assert lease.read_lease(output)["run"] == "other"


def test_the_lease_of_a_dead_local_process_is_taken_over_at_once(output: Place, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    began = time.monotonic()
    with take(output):
        assert time.monotonic() - began < lease.EXPIRY / 2
        assert lease.read_lease(output)["run"] == "mine"
    assert lease.read_lease(output) is None


def test_a_holder_on_another_machine_is_alive_while_it_sends_heartbeats(
    output: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT", 1.0)
    monkeypatch.setattr(lease, "EXPIRY", 4.0)
    monkeypatch.setattr(lease, "_pid_space", lambda: "another machine")
    first = take(output)
    first.__enter__()
    monkeypatch.undo()
    monkeypatch.setattr(lease, "EXPIRY", 4.0)
    monkeypatch.setattr(lease, "HEARTBEAT", 1.0)
    with pytest.raises(InputError, match="another job"), take(output):
        pass
    first._stop.set()  # no more heartbeats, as if its machine had crashed
    first._thread.join()
    said: list[str] = []
    with Lease(output, "mine", lambda error: None, said.append):
        assert lease.read_lease(output)["run"] == "mine"
    assert "to see if it is alive" in said[0]


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
    monkeypatch.setattr(lease, "HEARTBEAT", 0.2)
    lost: list[Exception] = []
    with Lease(output, "mine", lost.append, print):
        stolen = lease.read_lease(output) | {"token": "theirs", "run": "theirs"}
        output.join(lease.NAME).put(json.dumps(stolen).encode())
        time.sleep(1.5)
        assert len(lost) == 1
        assert "run theirs" in str(lost[0])
    assert lease.read_lease(output)["run"] == "theirs"


def test_progress_is_in_the_lease(output: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT", 0.2)
    with take(output) as mine:
        mine.set_progress(images=3)
        time.sleep(1)
        held = lease.read_lease(output)
        assert held["progress"] == {"images": 3}
        assert held["pid"] == os.getpid()
        assert lease.is_alive(held)


def test_access_denied_is_one_line(bucket: tuple[S3FileSystem, str]) -> None:
    output = place(f"s3://{bucket[1]}/out", {"key": "demo", "secret": "wrong"})
    with pytest.raises(InputError, match="access denied"), take(output):
        pass
