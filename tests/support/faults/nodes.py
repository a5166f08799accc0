"""A Ray cluster of several raylets on this machine, each of which can be killed.

It runs in another process with another temporary folder, because Ray stores the address of such a cluster where
every `ray.init()` on the machine would find it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from types import TracebackType

import psutil

from support.faults.jobs import kill_all, workers

SCRIPT = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
print("address", cluster.address, flush=True)
nodes = {}
for line in sys.stdin:
    command, number = line.split()
    if command == "add":
        nodes[number] = cluster.add_node(num_cpus=2, object_store_memory=256 << 20)
        print("raylet", nodes[number].all_processes["raylet"][0].process.pid, flush=True)
    else:
        cluster.remove_node(nodes.pop(number), allow_graceful=False)
        print("removed", number, flush=True)
"""


class Nodes:
    """A head without cores and nodes of two cores each, as a context manager.

    Args:
        environment: more variables of the nodes, such as the credentials of a store: workers have the environment of
            their node, not that of the driver.

    Attributes:
        environment: the variables with which a job joins the cluster; Ray asks for the token there.
        raylets: pid of each node's raylet, by number.
    """

    def __init__(self, count: int, environment: dict[str, str] | None = None) -> None:
        self._more = environment or {}
        self._count, self._added, self.raylets = count, 0, dict[int, int]()
        self._folder = tempfile.mkdtemp(prefix="mf-")  # short: Ray's sockets lie in it
        self.environment = {
            "RAY_TMPDIR": self._folder,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_health_check_period_ms": "1000",  # by default a node counts as dead after some 15 s
            "RAY_health_check_failure_threshold": "4",
        }

    def __enter__(self) -> Nodes:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **self._more, **self.environment},
            start_new_session=True,
        )
        try:
            self.environment["RAY_ADDRESS"] = self._answer("address")
            for _ in range(self._count):
                self.add()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        everything = self.child_processes()
        self._process.kill()
        self._process.wait()
        kill_all(everything)
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self) -> int:
        """Starts a node; returns its number."""
        self._added += 1
        self._say(f"add {self._added}")
        self.raylets[self._added] = int(self._answer("raylet"))
        return self._added

    def kill(self, number: int) -> None:
        """Kills a node's raylet and all its child processes, as when a spot machine is taken away."""
        raylet = psutil.Process(self.raylets.pop(number))
        kill_all([raylet, *raylet.children(recursive=True)])

    def remove(self, number: int) -> None:
        """Stops a node's raylet and agents by Ray's API."""
        del self.raylets[number]
        self._say(f"remove {number}")
        self._answer("removed")

    def child_processes(self) -> list[psutil.Process]:
        """Returns all processes of the cluster."""
        try:
            return psutil.Process(self._process.pid).children(recursive=True)
        except psutil.Error:
            return []

    def node_of_worker(self, name: str) -> int | None:
        """Finds the node with a worker process whose title contains a name; None if there is none."""
        for number, pid in self.raylets.items():
            if workers(psutil.Process(pid).children(), name):
                return number
        return None

    def _say(self, line: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _answer(self, name: str) -> str:
        assert self._process.stdout
        for line in self._process.stdout:  # between the lines that Ray prints
            if line.startswith(name + " "):
                return line.split()[1]
        raise AssertionError("the cluster ended")
