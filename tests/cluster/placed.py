"""Writes down where each stage of a job runs: a worker's setup hook of the tests, imported by name."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from pipeline.cluster.progress import Progress

FOLDER = "PLACED"  # the environment variable that names where to write


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
        with (Path(os.environ[FOLDER]) / str(os.getpid())).open("a") as file:
            file.write(json.dumps(row) + "\n")

    Progress.stage = stage  # type: ignore[method-assign]


def read(folder: Path) -> list[dict]:
    """What was written."""
    return [json.loads(line) for path in folder.iterdir() for line in path.read_text().splitlines()]
