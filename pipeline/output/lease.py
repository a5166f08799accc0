"""The lease of an output: only one job at a time writes to it.

A lease is a small JSON file in the output. The holder writes it again every `HEARTBEAT` seconds. Another job takes it
over only if the holder is dead: its process on this machine is gone, or it has sent no heartbeat for `EXPIRY` seconds.

Where the store can create an object only if it does not exist (S3's conditional PUT, a local disk), two jobs that
start at the same time cannot both get the lease. A takeover cannot be made conditional on every store. So a job that
has overwritten a lease reads it back after `TAKEOVER_DELAY` seconds, and each holder reads the lease before each
heartbeat. So at most one of two jobs continues.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.errors import InputError
from pipeline.storage import Place, explain

NAME = "_lease.json"
HEARTBEAT = 10.0  # seconds between two heartbeats
EXPIRY = 60.0  # seconds without a heartbeat after which a holder counts as dead
TAKEOVER_DELAY = 2.0  # seconds to wait after a takeover, in case another job took over at the same moment


class Lease:
    """The right to write to an output, as a context manager.

    Entering it raises `InputError` if another job holds the lease, or if the store cannot be used.

    Args:
        output: root of the output.
        run: id of the run.
        on_lost: called once if another job has taken the lease over; this job must stop.
        on_wait: called with a message when this job has to wait for the lease of another one to expire.
    """

    def __init__(
        self, output: Place, run: str, on_lost: Callable[[Exception], None], on_wait: Callable[[str], None]
    ) -> None:
        self._file, self._output, self._on_lost, self._on_wait = output.join(NAME), output, on_lost, on_wait
        self._identity = {"token": uuid.uuid4().hex, "run": run, "started": _now(), **_this_process()}
        self._progress: dict[str, Any] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send_heartbeats, daemon=True, name="lease")

    def __enter__(self) -> Lease:
        try:
            self._acquire()
        except InputError:
            raise
        except Exception as error:  # the error type depends on the store
            raise explain(self._output.url, error) from None
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(HEARTBEAT)
        try:
            if (lease := read_lease(self._output)) and lease["token"] == self._identity["token"]:
                self._file.fs.rm_file(self._file.path)
        except Exception:  # the store cannot be reached; the lease expires by itself
            return

    def set_progress(self, **progress: Any) -> None:
        """Sets what `maskfleet status` shows of this job; it is written with the next heartbeat."""
        self._progress = progress

    def _acquire(self) -> None:
        if _create(self._file, self._content()):
            return
        if (lease := read_lease(self._output)) is not None:
            self._wait_until_dead(lease)
        self._file.put(self._content())
        time.sleep(TAKEOVER_DELAY)
        lease = read_lease(self._output)
        if lease is None or lease["token"] != self._identity["token"]:
            raise InputError(_held_message(self._output, lease))

    def _wait_until_dead(self, lease: dict[str, Any]) -> None:
        """Returns when the holder is certainly dead.

        Raises:
            InputError: it is alive.
        """
        running = _is_running(lease)
        if running:
            raise InputError(_held_message(self._output, lease))
        if running is False:
            return
        # Clocks may be wrong. So the time in the lease can shorten the wait, but the lease is always watched.
        age = _age(lease)
        wait = max(2 * HEARTBEAT, EXPIRY - max(age, 0.0))
        self._on_wait(f"{_holder(lease)} held this output {age:.0f} s ago; waiting {wait:.0f} s to see if it is alive")
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline:
            time.sleep(1)
            current = read_lease(self._output)
            if current is None:
                return
            if current != lease:
                raise InputError(_held_message(self._output, current))

    def _send_heartbeats(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            try:
                lease = read_lease(self._output)
                if lease is not None and lease["token"] != self._identity["token"]:
                    self._on_lost(InputError(f"stopped: {_held_message(self._output, lease)}"))
                    return
                self._file.put(self._content())
            except Exception:  # the store cannot be reached; the next heartbeat tries again
                continue

    def _content(self) -> bytes:
        return json.dumps(self._identity | {"renewed": _now(), "progress": self._progress}).encode()


def read_lease(output: Place) -> dict[str, Any] | None:
    """Reads the lease of an output.

    Returns:
        `run`, `user`, `host`, `pid`, `started` and `renewed` (ISO 8601), `progress` and what identifies the process;
        None if there is no lease or it is not valid JSON.
    """
    file = output.join(NAME)
    try:
        return json.loads(file.fs.cat_file(file.path))
    except (FileNotFoundError, ValueError):
        return None


def is_alive(lease: dict[str, Any]) -> bool:
    """Tells whether the holder of a lease seems alive, from its process or from its last heartbeat."""
    running = _is_running(lease)
    return _age(lease) < EXPIRY if running is None else running


def _create(file: Place, content: bytes) -> bool:
    """Creates the object if it does not exist; False if it does."""
    if file.protocol == "file":
        part = Path(f"{file.path}.{uuid.uuid4().hex}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        try:
            os.link(part, file.path)
        except FileExistsError:
            return False
        finally:
            part.unlink()
        return True
    if file.fs.exists(file.path):
        return False
    try:
        file.fs.pipe_file(file.path, content, mode="create")
    except FileExistsError:
        return False
    except OSError:
        if read_lease(Place(file.url.removesuffix(f"/{NAME}"), file.options)) is None:
            raise
        return False
    return True


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _age(lease: dict[str, Any]) -> float:
    """Seconds since the last heartbeat, by the clocks of both machines."""
    return time.time() - datetime.fromisoformat(lease["renewed"]).timestamp()


def _this_process() -> dict[str, Any]:
    """Identifies this process among those of all machines; host and user help a person to find it."""
    pid = os.getpid()
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # the user of a container may have no name
        user = str(os.getuid())
    return {"host": socket.gethostname(), "user": user, "pid": pid, "born": _start_time(pid), "space": _pid_space()}


def _pid_space() -> str | None:
    """Identifies this boot of the machine and the PID namespace; None where the kernel does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def _start_time(pid: int) -> str | None:
    """Returns when a process of this machine started, in clock ticks since boot; None if it does not run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _is_running(lease: dict[str, Any]) -> bool | None:
    """Tells whether the holder's process runs; None if it is on another machine or in another namespace."""
    if lease.get("space") is None or lease["space"] != _pid_space():
        return None
    return lease["born"] is not None and _start_time(lease["pid"]) == lease["born"]


def _holder(lease: dict[str, Any]) -> str:
    return f"run {lease['run']} of {lease['user']} on {lease['host']}, process {lease['pid']}, since {lease['started']}"


def _held_message(output: Place, lease: dict[str, Any] | None) -> str:
    holder = f" ({_holder(lease)})" if lease else ""
    return f"{output.url} is being written by another job{holder}: wait for it, stop it, or choose another OUTPUT"
