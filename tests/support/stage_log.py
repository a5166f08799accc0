"""Writes down where each stage of a job runs, and holds its actors up at windows that a test names.

`hook` is a worker's setup hook, which Ray imports by its name.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import ray

from pipeline.cluster.progress import Progress
from support.forkserver import SITE

FOLDER = "STAGE_LOG"  # the environment variable that names where to write
PAUSE = "STAGE_LOG_PAUSE"  # and the one that says for how many seconds an actor waits at each window
HOLD = "STAGE_LOG_HOLD"  # and the one that says at which window each actor waits until `release`
RELEASE = "release"  # the file that ends the wait


def hook() -> None:
    """Runs in every worker process before its first task."""
    original = Progress.stage

    @contextmanager
    def stage(self: Progress, name: str) -> Iterator[Counter[str]]:
        with original(self, name) as passed:
            yield passed
        if not passed:
            return  # the end of a batch, at which a stage is asked for more
        context = ray.get_runtime_context()
        row = {
            "stage": name,
            "node": context.get_node_id(),
            "actor": context.get_actor_id(),
            "device": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "ended": time.time(),
        }
        with (Path(os.environ[FOLDER]) / f"{os.getpid()}.json").open("a") as file:
            file.write(json.dumps(row) + "\n")
        if name == "segment":
            _hold_up(Path(os.environ[FOLDER]))

    Progress.stage = stage  # type: ignore[method-assign]


def _hold_up(folder: Path) -> None:
    """Waits as `environment` says."""
    time.sleep(float(os.environ[PAUSE]))
    windows = sum(row["stage"] == "segment" for row in _rows(folder / f"{os.getpid()}.json"))
    hold = dict(enumerate(json.loads(os.environ[HOLD]))).get(_order(folder))
    while hold is not None and windows >= hold and not (folder / RELEASE).exists():
        time.sleep(0.5)


def _order(folder: Path) -> int:
    """How many actors had segmented a window before this one."""
    order = 0
    while True:
        with suppress(FileExistsError):
            (folder / f"actor-{order}").symlink_to(str(os.getpid()))
        if os.readlink(folder / f"actor-{order}") == str(os.getpid()):
            return order
        order += 1


def environment(
    folder: Path, *python_path: Path, hold: tuple[int | None, int | None], pause: float = 0.0
) -> dict[str, object]:
    """The runtime environment of a job that logs its stages to a folder.

    Args:
        python_path: more folders to import from.
        hold: at which window the actor that is ready first, and the second one, wait until `release`; None: at none.
            More actors, such as one that replaces another, do not wait.
        pause: seconds that an actor waits at each window, as if the GPU were slow.
    """
    folder.mkdir()
    path = ":".join(str(p) for p in (SITE, *python_path, Path(__file__).parents[1]))
    variables = {"PYTHONPATH": path, FOLDER: str(folder), PAUSE: str(pause), HOLD: json.dumps(hold)}
    return {"env_vars": variables, "worker_process_setup_hook": f"{__name__}.hook"}


def release(folder: Path) -> None:
    """Lets the actors go on that wait."""
    (folder / RELEASE).touch()


def read(folder: Path) -> list[dict]:
    """What was written."""
    return [row for path in folder.glob("*.json") for row in _rows(path)]


def _rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]
