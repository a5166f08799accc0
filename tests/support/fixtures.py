"""Fixtures that all tests share: real images, a real S3 server, and one Ray for the jobs that run in this process."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from s3fs import S3FileSystem

from jobs.sample import DATA
from jobs.sample.s3_server import S3Server
from pipeline.cluster.connection import Connection
from support.tiny import write_tiny

settings.register_profile("any machine", deadline=None)  # how long an example takes depends on the machine
settings.load_profile("any machine")

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # a core for each worker


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
    return Path(__file__).parents[1] / "data" / "photos"


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
    with S3Server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture
def bucket(s3_server: S3Server, request: pytest.FixtureRequest) -> Iterator[tuple[S3FileSystem, str]]:
    """A client and an empty bucket for one test."""
    S3FileSystem.clear_instance_cache()  # of clients that an earlier test made without keys
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
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TESTS_FAULTY_DECODER", "1")  # some images crash the workers; see `support/site`
            connection.context()
        yield


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
