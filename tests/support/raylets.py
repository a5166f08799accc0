"""A Ray cluster of several nodes on this machine, each started with `ray start` as it would be on its own machine.

Every node has its own ports, folder and object store, and the cluster requires a token. Nodes are stopped by
process id, so that other clusters on this machine are left alone.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import psutil
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FakeMultiNodeProvider

from jobs.sample.s3_server import HOST, free_ports
from support.environment import WARM

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).parent / "ray")
START_SECONDS = 180.0  # far more than a node takes on a slow machine
AUTOSCALER = {
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
}
T = TypeVar("T")


class Raylets:
    """A head without CPUs, and the nodes that are added to it; a context manager.

    Args:
        node_types: of the nodes that Ray's autoscaler may start, as in a cluster's configuration.

    Attributes:
        environment: what a client of this cluster needs: its token, and where jobs are submitted.
        gcs: the address that nodes and drivers join.
        folder: of all nodes; each has its own below it, named like the node.
    """

    def __init__(self, node_types: dict[str, Any]) -> None:
        self._node_types = node_types
        self.folder = Path(tempfile.mkdtemp(prefix="mfc-"))  # short: sockets live below it
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        self.gcs = f"{HOST}:{free_ports(1)[0]}"
        self.dashboard = f"http://{HOST}:{free_ports(1)[0]}"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        self.environment = inherited | {
            **WARM,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_API_SERVER_ADDRESS": self.dashboard,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            "RAY_raylet_start_wait_time_s": "120",
            "RAY_metrics_report_interval_ms": "4000",
        }

    def __enter__(self) -> Raylets:
        try:
            port = self.gcs.split(":")[1]
            dashboard = ["--dashboard-host", HOST, "--dashboard-port", self.dashboard.split(":")[-1]]
            client = ["--ray-client-server-port", str(free_ports(1)[0])]
            none = ["--num-cpus", "0", "--num-gpus", "0"]
            self._start("head", "--head", "--port", port, *dashboard, *client, *none, *self._autoscaler())
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def add(self, name: str, **options: Any) -> None:
        """Starts a node and waits for it; options of `ray start`, such as num_cpus=2."""
        arguments = [a for k, v in options.items() for a in (f"--{k.replace('_', '-')}", str(v))]
        if "num_gpus" not in options:
            arguments += ["--num-gpus", "0"]
        self._start(name, "--address", self.gcs, *arguments)

    def remove(self, name: str) -> None:
        """Kills a node, as when a machine is taken away."""
        family = self.processes(name)
        process = self._nodes.pop(name)
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()

    def processes(self, name: str) -> list[psutil.Process]:
        """Returns the processes of a node: `ray start` and all below it."""
        node = psutil.Process(self._nodes[name].pid)
        return [node, *node.children(recursive=True)]

    def stop(self) -> None:
        """Kills all nodes and removes their files."""
        for name in reversed(list(self._nodes)):
            with suppress(psutil.NoSuchProcess):
                self.remove(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def nodes(self) -> list[dict[str, Any]]:
        """Returns the nodes that are alive, from Ray's state API."""
        return [n for n in self.state("nodes") if n["state"] == "ALIVE"]

    def kinds(self) -> dict[str, str]:
        """What each node that is alive is, by its id: "gpu", "cpu" (without GPUs), or "head" (without CPUs)."""
        resources = {node["node_id"]: node["resources_total"] for node in self.nodes()}
        return {i: "head" if not r.get("CPU") else "gpu" if r.get("GPU") else "cpu" for i, r in resources.items()}

    def state(self, what: str, **filters: str) -> list[dict[str, Any]]:
        """Asks Ray's state API for "nodes", "actors", "tasks", ... that match all filters."""
        query = "".join(f"&filter_keys={k}&filter_predicates=%3D&filter_values={v}" for k, v in filters.items())
        return self._get(f"/api/v0/{what}?detail=1&limit=10000{query}")["data"]["result"]["result"]

    def demand(self) -> str:
        """Returns what Ray's autoscaler is asked for, as `ray status` prints it."""
        return self._ray("status", "--address", self.gcs).partition("Pending Demands:")[2]

    def memory(self) -> str:
        """Returns what the object stores of all nodes hold and have spilled, as `ray memory` prints it."""
        return self._ray("memory", "--stats-only", "--address", self.gcs)

    def _ray(self, *arguments: str) -> str:
        """Runs a command of `ray` and returns what it printed."""
        done = subprocess.run([RAY, *arguments], env=self.environment, capture_output=True, text=True, timeout=60)
        return done.stdout

    def status(self, job: str) -> str:
        """Returns PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
        return self._get(f"/api/jobs/{job}")["status"]

    def logs(self, job: str) -> str:
        """Returns what the driver of a job has printed."""
        return self._get(f"/api/jobs/{job}/logs")["logs"]

    def ended(self, job: str, seconds: float = 480.0) -> str:
        """Waits for the end of a job; returns its last status."""
        return self.wait(lambda: self.status(job) in ("SUCCEEDED", "FAILED", "STOPPED") and self.status(job), seconds)

    @staticmethod
    def wait(condition: Callable[[], T], seconds: float = 240.0) -> T:
        """Asks once a second until the answer is true; returns the answer."""
        deadline = time.monotonic() + seconds
        while not (answer := condition()):
            assert time.monotonic() < deadline, f"not within {seconds} seconds"
            time.sleep(1.0)
        return answer

    def job(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs `ray job ARGUMENTS` as a user of this cluster does."""
        command = [RAY, "job", *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=240, cwd=ROOT)
        assert not check or done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done

    def submit(self, name: str, command: Sequence[str], runtime_env: dict[str, Any], *options: str) -> None:
        """Submits a job under a name, and does not wait for it.

        Args:
            options: more options of `ray job submit`.
        """
        environment = ("--runtime-env-json", json.dumps(runtime_env))
        self.job("submit", "--no-wait", "--submission-id", name, *environment, *options, "--", *command)

    def scrape(self) -> str:
        """Returns what Prometheus would read now, of all nodes that Ray's file for it names."""
        (found,) = json.loads((self.folder / "head" / "prom_metrics_service_discovery.json").read_text())
        texts = []
        for target in found["targets"]:
            with urllib.request.urlopen(f"http://{target}/metrics", timeout=30) as answer:
                texts.append(answer.read().decode())
        return "".join(texts)

    def _get(self, path: str) -> Any:
        token = {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        request = urllib.request.Request(self.dashboard + path, headers=token)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def _autoscaler(self) -> list[str]:
        """Options that start the head with Ray's autoscaler v2; its machines are raylets, as in Ray's own tests."""
        kind = FakeMultiNodeProvider
        provider = {"type": "external", "module": f"{kind.__module__}.{kind.__name__}", "gcs_address": self.gcs}
        head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
        config = {
            "cluster_name": "test",
            "max_workers": 8,
            "provider": provider | {"launch_multiple": True, "disable_node_updaters": True},
            "available_node_types": {"ray.head.default": head} | self._node_types,
            **{key: [] for key in ("setup_commands", "head_setup_commands", "worker_setup_commands")},
            "cluster_synced_files": [],
        }
        path = self.folder / "autoscaling.yaml"
        path.write_text(json.dumps(config))
        return ["--autoscaling-config", str(path)]

    def _start(self, name: str, *arguments: str) -> None:
        before = self._count()
        own = ["--node-ip-address", HOST, "--temp-dir", str(self.folder / name), "--block", *arguments]
        own += ["--dashboard-agent-listen-port", str(free_ports(1)[0])]
        log = self.folder / f"{name}.log"
        with log.open("wb") as out:
            variables = self.environment | (AUTOSCALER if name == "head" else {})
            self._nodes[name] = subprocess.Popen(
                [RAY, "start", *own], env=variables, stdout=out, stderr=out, stdin=subprocess.DEVNULL
            )
        deadline = time.monotonic() + START_SECONDS
        while self._count() <= before:
            assert self._nodes[name].poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.5)

    def _count(self) -> int:
        try:
            return len(self.nodes())
        except OSError:  # the head starts
            return 0
