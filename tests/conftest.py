"""What all tests share: real images and a real S3 server."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from s3fs import S3FileSystem

from jobs.sample import DATA
from jobs.sample.s3_server import S3Server

os.environ.setdefault("RAY_DEDUP_LOGS", "0")
settings.register_profile("any machine", deadline=None)  # how long an example takes says nothing of the code
settings.load_profile("any machine")


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
    """Photographs of unlike sizes (CC BY; see the folder's ATTRIBUTION.md)."""
    return Path(__file__).parent / "data" / "photos"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One real S3 server for the session; its address is in the environment of this process."""
    with S3Server() as server:
        before = {k: os.environ.get(k) for k in server.environment}
        os.environ.update(server.environment)
        yield server
        for key, value in before.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value


@pytest.fixture
def bucket(s3_server: S3Server, request: pytest.FixtureRequest) -> Iterator[tuple[S3FileSystem, str]]:
    """A client and an empty bucket of the test's own."""
    name = "test-" + "".join(c if c.isalnum() else "-" for c in request.node.name.lower())[:40].strip("-")
    fs = s3_server.filesystem()
    fs.mkdir(name)
    yield fs, name
    fs.rm(name, recursive=True)


@pytest.fixture
def plate(nuclei: Path, tmp_path: Path) -> Path:
    """A folder of six small images."""
    folder = tmp_path / "plate"
    folder.mkdir()
    small = [p for p in sorted(nuclei.iterdir()) if p.stat().st_size < 60_000][:6]
    for path in small:
        shutil.copy(path, folder)
    return folder
