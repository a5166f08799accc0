"""The main job as it is run on a cluster: submitted over HTTP, its images and results in S3."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import duckdb
import pytest
from PIL import Image
from s3fs import S3FileSystem
from support.raylets import Raylets

from jobs.sample.s3_server import S3Server

pytestmark = pytest.mark.slow
IMAGES = 600
ROOMS = {"jobs", "model", "pipeline"}


def test_a_submitted_job_is_stopped_and_continued_by_submitting_it_again(
    fleet: Raylets, s3_server: S3Server, bucket: tuple[S3FileSystem, str], nuclei: Path
) -> None:
    s3, name = bucket
    upload(s3, f"{name}/plates", nuclei)
    environment = json.dumps({"env_vars": s3_server.environment})
    job = ["python", "-m", "jobs.segment", f"s3://{name}/plates", f"s3://{name}/masks", "--workers", "1,2"]
    job += ["--set", "min_size=128", "--set", "max_size=256", "--batch-size", "8"]
    submit = ["submit", "--no-wait", "--working-dir", ".", "--runtime-env-json", environment, "--submission-id"]

    fleet.job(*submit, "first", "--", *job)
    fleet.wait(lambda: rows(s3, name), 120)
    fleet.job("stop", "first")
    assert fleet.ended("first") == "STOPPED"
    assert f"segmenting {IMAGES} images" in fleet.logs("first")
    before = rows(s3, name)
    assert 0 < before < IMAGES

    fleet.job(*submit, "second", "--", *job)
    assert fleet.ended("second") == "SUCCEEDED", fleet.logs("second")
    logs = fleet.logs("second")
    assert re.search(r"^\d\d:\d\d:\d\d segmenting \d+ images$", logs, re.MULTILINE)
    assert re.search(r"^\d\d:\d\d:\d\d [\d,]+ of [\d,]+ images, [\d.]+ images/s, 0 failed", logs, re.MULTILINE)
    now = int(re.search(r"segmenting ([\d,]+) images", logs)[1].replace(",", ""))  # type: ignore[index]
    assert 0 < now < IMAGES
    assert s3_server.environment["AWS_SECRET_ACCESS_KEY"] not in logs

    with duckdb.connect() as connection:
        connection.register_filesystem(s3)
        counted = connection.execute(
            f"select count(*), count(distinct image_id), count(error) from read_parquet('s3://{name}/masks/results/*')"
        ).fetchone()
        owed = connection.execute(f"select count(*) from read_parquet('s3://{name}/masks/catalog/*')").fetchone()
    assert counted == (IMAGES, IMAGES, 0)
    assert owed == (IMAGES,)
    uploaded_is_what_runs(fleet)


def test_without_the_token_nothing_is_submitted(fleet: Raylets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fleet.environment, "RAY_AUTH_TOKEN", "0" * 32)
    refused = fleet.job("submit", "--no-wait", "--", "true", check=False)
    assert refused.returncode != 0
    assert "token" in (refused.stdout + refused.stderr).lower()


def upload(s3: S3FileSystem, prefix: str, nuclei: Path) -> None:
    """Crops of one picture, each in an object of its own."""
    picture = Image.open(sorted(nuclei.iterdir())[0]).convert("RGB")
    crops = {}
    for i in range(IMAGES):
        x, y, buffer = i % 20, i // 20, io.BytesIO()
        picture.crop((x, y, x + 128, y + 128)).save(buffer, "png")
        crops[f"{prefix}/{i:03d}.png"] = buffer.getvalue()
    s3.pipe(crops)


def rows(s3: S3FileSystem, name: str) -> int:
    """Rows that a reader would find now."""
    s3.invalidate_cache()
    files = s3.glob(f"{name}/masks/results/*.parquet")
    with duckdb.connect() as connection:
        connection.register_filesystem(s3)
        listed = ", ".join(f"'s3://{f}'" for f in files)
        return connection.execute(f"select count(*) from read_parquet([{listed}])").fetchone()[0] if files else 0


def uploaded_is_what_runs(fleet: Raylets) -> None:
    """The working directory on the cluster holds the three rooms, and not the tests, data or history."""
    copies = list(fleet.folder.glob("head/session_*/runtime_resources/working_dir_files/_ray_pkg_*/"))
    assert copies
    for copy in copies:
        present = {p.name for p in copy.iterdir()}
        assert present >= ROOMS
        assert not present & {"tests", "docs", ".git", ".venv", "demo-output"}
        assert sum(p.stat().st_size for p in copy.rglob("*") if p.is_file()) < 100 << 20
