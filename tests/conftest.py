"""Fixtures that all tests share: real images, a real S3 server, and one Ray for the jobs that run in this process."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import support.environment  # noqa: F401 - some variables count only before Ray is imported
import torch
from hypothesis import settings
from s3fs import S3FileSystem
from support.forkserver import Forkserver
from support.tiny import write_tiny

from jobs.sample import DATA
from jobs.sample.s3_server import S3Server
from pipeline.cluster.connection import Connection

FAULTY = {"TESTS_FAULTY_DECODER": "1"}  # some images crash the workers; see `support/site/faulty_decoder.py`
FORKSERVER = Forkserver()

# Files and folders with tests that start a Ray of their own. Each goes to one worker of pytest-xdist.
OWN_RAY = ("tests/cluster/submitted/", "tests/cluster/test_autoscaling.py", "tests/jobs/test_demo.py")

# Those with tests that share `local_ray`. All go to the same worker.
SHARED_RAY = (
    "tests/cluster/",
    "tests/jobs/test_again.py",
    "tests/jobs/test_demo_json.py",
    "tests/jobs/test_plan.py",
    "tests/jobs/test_segment.py",
    "tests/pipeline/cluster/test_monitor.py",
    "tests/pipeline/images/test_damaged_images.py",
    "tests/pipeline/stages/test_quarantine.py",
)

settings.register_profile("any machine", deadline=None)  # how long an example takes depends on the machine
settings.load_profile("any machine")


def pytest_configure() -> None:
    """Gives each worker of pytest-xdist one core. The process that starts them starts the server of forks."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)
    else:
        os.environ |= FORKSERVER.__enter__().environment


def pytest_unconfigure() -> None:
    """Stops the server of forks."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        FORKSERVER.__exit__(None, None, None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Lets the worker that runs jobs go first: on a busy machine Ray gives up if its own processes start too slowly."""
    if "PYTEST_XDIST_WORKER" in os.environ and not item.nodeid.startswith(OWN_RAY + SHARED_RAY) and not os.nice(0):
        os.nice(10)


@pytest.hookimpl(tryfirst=True)  # before -m chooses tests
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that start jobs as slow, and puts the files with such tests first, as they take longest."""
    for item in items:
        if "local_ray" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item.nodeid.startswith(OWN_RAY) or 2 * (not item.nodeid.startswith(SHARED_RAY)))


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


@pytest.fixture(scope="session")
def nuclei() -> Path:
    """The folder of the shipped microscope images."""
    return DATA / "images"


@pytest.fixture(scope="session")
def annotations() -> dict:
    """Their true masks, COCO instances."""
    return json.loads((DATA / "annotations.json").read_text())


@pytest.fixture(scope="session")
def photos() -> Path:
    """Photographs of different sizes (CC BY; see the folder's ATTRIBUTION.md)."""
    return Path(__file__).parent / "data" / "photos"


@pytest.fixture(scope="session")
def tiny_weights(nuclei: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a network that finds something in milliseconds, for tests of everything around it."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    write_tiny(path, sorted(nuclei.iterdir())[0])
    return path


@pytest.fixture(scope="session")
def quick(tiny_weights: Path) -> tuple:
    """Options of a job that is soon done: one actor with the tiny network."""
    return ("--workers", 1, "--weights", tiny_weights)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One real S3 server for the session; its address and keys are in the environment of this process."""
    with S3Server() as server, environment(server.environment):
        S3FileSystem.clear_instance_cache()  # of clients that an earlier test made without keys
        yield server


@pytest.fixture
def bucket(s3_server: S3Server, request: pytest.FixtureRequest) -> Iterator[tuple[S3FileSystem, str]]:
    """A client and an empty bucket for one test."""
    name = "test-" + "".join(c if c.isalnum() else "-" for c in request.node.name.lower())[:40].strip("-")
    fs = s3_server.filesystem()
    fs.mkdir(name)
    yield fs, name
    fs.rm(name, recursive=True)


@pytest.fixture(scope="session")
def local_ray(s3_server: S3Server) -> Iterator[None]:
    """Ray on this machine, as a job would start it, for the session: jobs that run in this process use it.

    Its workers have the keys of `s3_server` in their environment. They stay when a job ends, so that the next one
    finds processes that have imported this project.
    """
    with Connection() as connection:
        with environment(FAULTY):
            connection.context()
        yield


@contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """Sets environment variables for a while."""
    before = {k: os.environ.get(k) for k in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value


@pytest.fixture(scope="session")
def small_nuclei(nuclei: Path) -> list[Path]:
    """The shipped images of less than 60 kB, most of them of 256x256 pixels."""
    return [p for p in sorted(nuclei.iterdir()) if p.stat().st_size < 60_000]


@pytest.fixture
def plate(small_nuclei: list[Path], tmp_path: Path) -> Path:
    """A folder of six small images."""
    folder = tmp_path / "plate"
    folder.mkdir()
    for path in small_nuclei[:6]:
        shutil.copy(path, folder)
    return folder
