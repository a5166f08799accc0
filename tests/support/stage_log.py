"""Writes down where each stage of a job runs. `hook` is a worker's setup hook, which Ray imports by its name."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from pipeline.cluster.progress import Progress
from support.forkserver import SITE

FOLDER = "STAGE_LOG"  # the environment variable that names where to write
PAUSE = "STAGE_LOG_PAUSE"  # and the one that says for how many seconds an actor holds up the others at each window


def hook() -> None:
    """Runs in every worker process before its first task."""
    original = Progress.stage

    @contextmanager
    def stage(self: Progress, name: str) -> Iterator[Counter[str]]:
        with original(self, name) as passed:
            yield passed
        context = ray.get_runtime_context()
        row = {
            "stage": name,
            "node": context.get_node_id(),
            "actor": context.get_actor_id(),
            "device": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "ended": time.time(),
        }
        if name == "segment" and passed:
            with (Path(os.environ[FOLDER]).with_suffix(".lock")).open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                time.sleep(float(os.environ[PAUSE]))
        with (Path(os.environ[FOLDER]) / str(os.getpid())).open("a") as file:
            file.write(json.dumps(row) + "\n")

    Progress.stage = stage  # type: ignore[method-assign]


def environment(folder: Path, *python_path: Path, pause: float = 0.0) -> dict[str, object]:
    """The runtime environment of a job that logs its stages to a folder.

    Args:
        python_path: more folders to import from.
        pause: seconds that an actor waits at each window while all others wait too, as if the GPU that they share
            were slow. So actors never finish together.
    """
    folder.mkdir()
    path = ":".join(str(p) for p in (SITE, *python_path, Path(__file__).parents[1]))
    variables = {"PYTHONPATH": path, FOLDER: str(folder), PAUSE: str(pause)}
    return {"env_vars": variables, "worker_process_setup_hook": f"{__name__}.hook"}


def read(folder: Path) -> list[dict]:
    """What was written."""
    return [json.loads(line) for path in folder.iterdir() for line in path.read_text().splitlines()]
