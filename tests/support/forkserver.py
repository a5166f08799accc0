"""Forks the workers of the tests' Rays from a process that has imported PyTorch and Ray already.

A worker spends six seconds of a core on imports, and the tests start hundreds. The workers are real: they are
processes of their own, and Ray starts, kills and talks to them as ever. Only libraries are imported beforehand, none
of this project's modules.

Every process below the tests has the variables of `environment`. If such a process is a worker that Ray has just
started, it asks this server for a fork instead (`support/site/forked_worker.py`), and ends when the fork ends.

Ray reads its environment variables when it is imported, and they differ between nodes and jobs. So the server, which
has imported all but Ray, forks one process for each set of them (`_serve_workers`). That process imports Ray and
forks the workers.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

ADDRESS = "TESTS_FORKSERVER"  # environment variable: the server's socket
SITE = Path(__file__).parent / "site"
LIBRARIES = ("torch", "torchvision", "numba", "pandas", "pyarrow.parquet", "PIL.Image", "s3fs", "tifffile")
LIBRARIES += ("requests", "jsonschema", "google.protobuf.message")  # which Ray imports
MESSAGE_BYTES = 1 << 20
CONSTANT = {"OMP_NUM_THREADS": "1"}  # what libraries read once, when they are imported


class Forkserver:
    """A running server, as a context manager.

    Attributes:
        environment: the variables that make workers of Ray ask for forks.
    """

    def __enter__(self) -> Forkserver:
        self._folder = tempfile.TemporaryDirectory(prefix="mf-fork-")
        address = str(Path(self._folder.name, "socket"))
        self.environment = {ADDRESS: address, "PYTHONPATH": str(SITE)}
        command = [sys.executable, __file__, address]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, **CONSTANT})
        assert self._process.stdout
        assert self._process.stdout.readline() == b"ready\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()


def fork_of(pid: int) -> int | None:
    """Returns the pid of the fork that a process has asked for; None if it has not."""
    try:
        return int(_fork_file(pid).read_text())
    except (FileNotFoundError, KeyError, ValueError):
        return None


def _fork_file(pid: int) -> Path:
    return Path(f"{os.environ[ADDRESS]}.{pid}")


def serve(address: str) -> None:
    """Hands each connection to a process that has imported Ray with its variables.

    The libraries are imported for the first connection, since many tests need no Ray.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies
    tests, servers = os.getppid(), dict[tuple, socket.socket]()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen(64)
        server.settimeout(1.0)
        print("ready", flush=True)
        while os.getppid() == tests:  # also ends if the tests were killed
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            for name in LIBRARIES:
                importlib.import_module(name)
            message, files, _, _ = socket.recv_fds(connection, MESSAGE_BYTES, 3)
            asked = json.loads(message)
            key = tuple(sorted(item for item in asked["environment"].items() if item[0].startswith("RAY_")))
            if key not in servers:
                servers[key] = _fork_server(asked, [server, *servers.values()], [connection.fileno(), *files])
            socket.send_fds(servers[key], [message], [connection.fileno(), *files])
            connection.close()
            for file in files:
                os.close(file)


def _fork_server(asked: dict[str, Any], sockets: list[socket.socket], files: list[int]) -> socket.socket:
    """Forks a process that imports Ray and forks workers; returns the socket to send it requests.

    Args:
        asked: the first request.
        sockets: to be closed in the fork.
        files: to be closed there too.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        for other in (ours, *sockets):
            other.close()
        for file in files:
            os.close(file)
        try:
            _serve_workers(asked, theirs)
        finally:
            os._exit(1)
    theirs.close()
    return ours


def _serve_workers(asked: dict[str, Any], requests: socket.socket) -> None:
    """Imports Ray with the variables of the first request, and forks a process for each request until no more come."""
    _take_environment(asked)
    for name in ("ray", "ray.data"):
        importlib.import_module(name)
    gc.freeze()  # so that the forks' garbage collector does not look at all that has been imported
    while True:
        message, files, _, _ = socket.recv_fds(requests, MESSAGE_BYTES, 4)
        if not message:
            return
        if os.fork() == 0:
            requests.close()
            _become_worker(socket.socket(fileno=files[0]), json.loads(message), files[1:])
        for file in files:
            os.close(file)


def _take_environment(asked: dict[str, Any]) -> None:
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.path[:] = asked["path"]


def _become_worker(connection: socket.socket, asked: dict[str, Any], files: list[int]) -> None:
    """Runs the script of a worker in this forked process, with the environment of the process that asked for it."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setpgrp()  # Ray may kill the process group of a worker
        for target, file in enumerate(files):
            os.dup2(file, target)
            os.close(file)
        os.chdir(asked["folder"])
        _take_environment(asked)
        _fork_file(asked["pid"]).write_text(str(os.getpid()))
        threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
        _run(asked["arguments"])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run(arguments: list[str]) -> None:
    """Runs the script of a worker, as Python and Ray's `setup_worker.py` do."""
    sys.argv = arguments
    if Path(arguments[0]).name == "setup_worker.py":
        sys.argv = _set_up(arguments[1:])
    sys.modules.pop("sitecustomize", None)  # the server's, which had other variables when it started
    with suppress(ModuleNotFoundError):
        importlib.import_module("sitecustomize")
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")


def _set_up(arguments: list[str]) -> list[str]:
    """Applies a job's variables and working directory in this process; returns the script to run and its arguments."""
    from ray._private.runtime_env.context import RuntimeEnvContext
    from ray._private.utils import update_envs
    from ray._private.workers.setup_worker import parser

    options, script = parser.parse_known_args(arguments)
    context = RuntimeEnvContext.deserialize(options.serialized_runtime_env_context or "{}")
    update_envs(context.env_vars)
    if context.command_prefix:
        change_directory, folder, _ = context.command_prefix  # cd FOLDER &&
        assert change_directory == "cd"
        os.chdir(folder)
    for folder in reversed(os.environ.get("PYTHONPATH", "").split(":")):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    return script


def _end_with(connection: socket.socket) -> None:
    """Ends this process when the one that asked for it is gone."""
    connection.recv(1)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    serve(sys.argv[1])
