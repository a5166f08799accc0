"""Forks the workers of the tests' Ray from a process that has imported PyTorch already.

A worker spends five seconds of a core on imports, and the tests start hundreds. The workers are real: they are
processes of their own, and Ray starts, kills and talks to them as ever. Only libraries are imported beforehand, none
of this project's modules. Jobs in processes of their own, the nodes of test_raylets and autoscaled nodes do without.

Ray runs this file as the script that sets up a worker (`worker`). It asks the server (`serve`) for a fork, and ends
when the forked process ends.
"""

from __future__ import annotations

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
from pathlib import Path
from types import TracebackType

ADDRESS = "TESTS_FORKSERVER"  # environment variable: the server's socket
# Not Ray itself, whose forks cannot connect, but what it imports.
LIBRARIES = ("torch", "torchvision", "numba", "pandas", "pyarrow.parquet", "PIL.Image", "s3fs", "tifffile")
LIBRARIES += ("requests", "jsonschema", "google.protobuf.message")
MESSAGE_BYTES = 1 << 20
CONSTANT = {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "token"}  # what libraries read once, when they are imported


class Forkserver:
    """A running server, as a context manager.

    Attributes:
        environment: the variables that workers need.
        ray: the command `ray` for nodes whose workers are forked.
    """

    ray = (sys.executable, "-c", f"from {__name__} import use; use(); from ray.scripts.scripts import main; main()")

    def __enter__(self) -> Forkserver:
        self._folder = tempfile.TemporaryDirectory(prefix="mf-fork-")
        address = str(Path(self._folder.name, "socket"))
        self.environment = {ADDRESS: address}
        command = [sys.executable, __file__, "serve", address]
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


def use() -> None:
    """Lets the nodes of Ray that this process starts fork their workers."""
    from ray._private import ray_constants

    ray_constants.SETUP_WORKER_FILENAME = __file__


def serve(address: str) -> None:
    """Imports the libraries and forks a process for each connection."""
    for name in LIBRARIES:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies
    tests = os.getppid()
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
            message, files, _, _ = socket.recv_fds(connection, MESSAGE_BYTES, 3)
            if os.fork() == 0:
                server.close()
                _become_worker(connection, message, files)
            connection.close()
            for file in files:
                os.close(file)


def _become_worker(connection: socket.socket, message: bytes, files: list[int]) -> None:
    """Runs the script of a worker in this forked process, with the environment of the process that asked for it."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        asked = json.loads(message)
        for target, file in enumerate(files):
            os.dup2(file, target)
            os.close(file)
        os.chdir(asked["folder"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        sys.path[:] = asked["path"]
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
    """Does what Ray's `setup_worker.py` does, in this process."""
    from ray._private.runtime_env.context import RuntimeEnvContext
    from ray._private.utils import update_envs
    from ray._private.workers.setup_worker import parser

    options, sys.argv = parser.parse_known_args(arguments)
    context = RuntimeEnvContext.deserialize(options.serialized_runtime_env_context or "{}")
    update_envs(context.env_vars)
    if context.command_prefix:
        change_directory, folder, _ = context.command_prefix  # cd FOLDER && : of a job with a working directory
        assert change_directory == "cd"
        os.chdir(folder)
    modules = [folder for folder in os.environ.get("PYTHONPATH", "").split(":") if folder]
    sys.path[:0] = [str(Path(sys.argv[0]).parent), *(folder for folder in modules if folder not in sys.path)]
    sys.modules.pop("sitecustomize", None)
    if any(Path(folder, "sitecustomize.py").exists() for folder in modules):
        importlib.import_module("sitecustomize")
    runpy.run_path(sys.argv[0], run_name="__main__")


def _end_with(connection: socket.socket) -> None:
    """Ends this process when the one that asked for it is gone."""
    connection.recv(1)
    os.kill(os.getpid(), signal.SIGKILL)


def worker(arguments: list[str]) -> None:
    """Asks for a fork that runs a worker with these arguments, and waits for its end."""
    asked = {"arguments": arguments, "environment": dict(os.environ), "path": sys.path[1:], "folder": os.getcwd()}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ[ADDRESS])
        socket.send_fds(connection, [json.dumps(asked).encode()], [0, 1, 2])
        connection.recv(1)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        worker(sys.argv[1:])
