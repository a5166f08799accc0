"""Who works on an output: one job at a time, by a lease kept in the output itself.

The holder renews its lease every `RENEW` seconds. Another job that finds one takes it over only from a holder
that is dead: a process of this machine that is gone, or one that has been silent for `SILENT` seconds. Where
the store can create an object only if there is none (S3's conditional PUT, a local disk), two jobs that start
at once cannot both be first. A take-over cannot be conditional on every store: whoever overwrites the lease
reads it back after a moment, and each holder reads it before it renews it, so of two at most one goes on.
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
RENEW = 10.0  # seconds
SILENT = 60.0  # seconds without renewal after which a holder counts as dead
SETTLE = 2.0  # seconds after a take-over, for another that took over at the same moment to show


class Lease:
    """The right to write to an output, as a context manager.

    Args:
        lost: called, once, if another job has taken the lease over; this one must stop.
        waiting: called with a sentence when the lease of a silent holder has to be waited for.
    """

    def __init__(
        self, output: Place, run: str, lost: Callable[[Exception], None], waiting: Callable[[str], None]
    ) -> None:
        self._place, self._output, self._lost, self._waiting = output.join(NAME), output, lost, waiting
        self._ours = {"token": uuid.uuid4().hex, "run": run, "started": _now(), **_holder()}
        self._progress: dict[str, Any] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="lease")

    def __enter__(self) -> Lease:
        try:
            self._acquire()
        except InputError:
            raise
        except Exception as error:  # every store has errors of its own
            raise explain(self._output.url, error) from None
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(RENEW)
        try:
            if (held := read(self._output)) and held["token"] == self._ours["token"]:
                self._place.fs.rm_file(self._place.path)
        except Exception:  # the store is away: a lease that is not renewed ends by itself
            return

    def say(self, **progress: Any) -> None:
        """What others may see of this job's progress, from the next renewal on."""
        self._progress = progress

    def _acquire(self) -> None:
        if _create(self._place, self._content()):
            return
        if (held := read(self._output)) is not None:
            self._await_death(held)
        self._place.put(self._content())
        time.sleep(SETTLE)
        held = read(self._output)
        if held is None or held["token"] != self._ours["token"]:
            raise InputError(_taken(self._output, held))

    def _await_death(self, held: dict[str, Any]) -> None:
        """Returns when the holder is certainly dead.

        Raises:
            InputError: it is alive.
        """
        alive = _lives(held)
        if alive:
            raise InputError(_taken(self._output, held))
        if alive is False:
            return
        # A clock may be wrong, so what it says shortens the wait but never replaces looking.
        age = time.time() - datetime.fromisoformat(held["renewed"]).timestamp()
        wait = max(2 * RENEW, SILENT - max(age, 0.0))
        self._waiting(f"{_who(held)} held this output {age:.0f} s ago; seeing for {wait:.0f} s whether it lives")
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline:
            time.sleep(1)
            now = read(self._output)
            if now is None:
                return
            if now != held:
                raise InputError(_taken(self._output, now))

    def _renew(self) -> None:
        while not self._stop.wait(RENEW):
            try:
                held = read(self._output)
                if held is not None and held["token"] != self._ours["token"]:
                    self._lost(InputError(f"stopped: {_taken(self._output, held)}"))
                    return
                self._place.put(self._content())
            except Exception:  # the store is away; so it is for a rival, and what it says when it is back counts
                continue

    def _content(self) -> bytes:
        return json.dumps(self._ours | {"renewed": _now(), "progress": self._progress}).encode()


def read(output: Place) -> dict[str, Any] | None:
    """The lease of an output as it is now; None if nobody holds one, or it cannot be understood."""
    place = output.join(NAME)
    try:
        return json.loads(place.fs.cat_file(place.path))
    except (FileNotFoundError, ValueError):
        return None


def lives(held: dict[str, Any]) -> bool:
    """Whether the holder of a lease seems alive, by its process or the time of its last renewal."""
    alive = _lives(held)
    age = time.time() - datetime.fromisoformat(held["renewed"]).timestamp()
    return age < SILENT if alive is None else alive


def _create(place: Place, content: bytes) -> bool:
    """Creates the object if there is none; False if there is one already."""
    if place.protocol == "file":
        part = Path(f"{place.path}.{uuid.uuid4().hex}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        try:
            os.link(part, place.path)
        except FileExistsError:
            return False
        finally:
            part.unlink()
        return True
    if place.fs.exists(place.path):
        return False
    try:
        place.fs.pipe_file(place.path, content, mode="create")
    except FileExistsError:
        return False
    except OSError:
        if read(Place(place.url.removesuffix(f"/{NAME}"), place.options)) is None:
            raise
        return False
    return True


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _holder() -> dict[str, Any]:
    """What identifies this process among all on all machines, and helps a person to find it."""
    pid = os.getpid()
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = str(os.getuid())
    return {"host": socket.gethostname(), "user": user, "pid": pid, "born": _born(pid), "space": _space()}


def _space() -> str | None:
    """The machine since its last start, and the namespace of process numbers; None where the kernel tells neither."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def _born(pid: int) -> str | None:
    """When a process of this machine started, in the kernel's ticks; None if there is none (any more)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _lives(held: dict[str, Any]) -> bool | None:
    """Whether the holder's process lives; None where that cannot be seen from here."""
    if held.get("space") is None or held["space"] != _space():
        return None
    return held["born"] is not None and _born(held["pid"]) == held["born"]


def _who(held: dict[str, Any]) -> str:
    return f"run {held['run']} of {held['user']} on {held['host']}, process {held['pid']}, since {held['started']}"


def _taken(output: Place, held: dict[str, Any] | None) -> str:
    who = _who(held) if held else "another"
    return f"{output.url} is being written by another job ({who}): wait for it, stop it, or choose another OUTPUT"
