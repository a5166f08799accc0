"""How the tests run: which go to which worker of pytest-xdist, and the server that forks workers for Ray.

The fixtures are in `support/fixtures.py`.
"""

from __future__ import annotations

import gc
import os
from typing import Any

import pytest
import support.environment  # noqa: F401 - some variables count only before Ray is imported
from support.forkserver import Forkserver

IS_XDIST_WORKER = "PYTEST_XDIST_WORKER" in os.environ
FORKSERVER = Forkserver()

# Files and folders with tests that start a Ray of their own. Each goes to one worker of pytest-xdist.
OWN_RAY = ("tests/cluster/submitted/", "tests/jobs/test_demo.py")

# Those with tests that share `local_ray`. All go to the same worker.
SHARED_RAY = (
    "tests/cluster/",
    "tests/jobs/test_again.py",
    "tests/jobs/test_demo_json.py",
    "tests/jobs/test_plan.py",
    "tests/jobs/test_segment.py",
    "tests/pipeline/cluster/test_monitor.py",
    "tests/pipeline/cluster/test_sizing.py",
    "tests/pipeline/images/test_damaged_images.py",
    "tests/pipeline/stages/test_actor_memory.py",
    "tests/pipeline/stages/test_quarantine.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Loads the fixtures, which import much, if tests run in this process. The first process starts the forkserver."""
    if IS_XDIST_WORKER or not config.getoption("numprocesses", None):
        config.pluginmanager.import_plugin("support.fixtures")
    if not IS_XDIST_WORKER:
        os.environ |= FORKSERVER.__enter__().environment


def pytest_unconfigure() -> None:
    if not IS_XDIST_WORKER:
        FORKSERVER.__exit__(None, None, None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Lets the worker that runs jobs go first: on a busy machine Ray gives up if its own processes start too slowly."""
    if IS_XDIST_WORKER and not item.nodeid.startswith(OWN_RAY + SHARED_RAY) and not os.nice(0):
        os.nice(10)


@pytest.hookimpl(tryfirst=True)  # before -m chooses tests
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that start jobs as slow, and puts the files with slow tests first."""
    for item in items:
        if "local_ray" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
    slow = {item.path for item in items if item.get_closest_marker("slow")}

    def rank(item: pytest.Item) -> int:
        if item.nodeid.startswith(OWN_RAY):
            return 1
        return 0 if item.nodeid.startswith(SHARED_RAY) else 2 if item.path in slow else 3

    items.sort(key=rank)


def pytest_collection_finish() -> None:
    """Lets the garbage collector, which a failed job runs, pass over all that has been imported."""
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Gives all files that share a Ray to one worker, and the others, file by file, to the next free.

    pytest-xdist's own groups (`--dist loadgroup`) have no effect with pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            own = [path for path in OWN_RAY if nodeid.startswith(path)]
            return own[0] if own else "jobs" if nodeid.startswith(SHARED_RAY) else nodeid.split("::")[0]

    return Scheduling(config, log)
