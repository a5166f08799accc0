"""The main job as it is run on a cluster: submitted over HTTP, its images and results in S3."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

import duckdb
import pytest
from s3fs import S3FileSystem
from support import stage_log
from support.fleet import SMALL, ObservedJob, devices, pictures, watch
from support.raylets import Raylets

from jobs.sample.s3_server import S3Server

pytestmark = pytest.mark.slow
IMAGES = 600
FAST = ("--set", "rpn_pre_nms=100", "--set", "rpn_post_nms=100")  # a few seconds of work for two actors
ROOMS = {"jobs", "model", "pipeline"}


def test_a_submitted_job_is_stopped_and_continued_by_submitting_it_again(
    fleet: Raylets,
    observed_job: ObservedJob,
    s3_server: S3Server,
    bucket: tuple[S3FileSystem, str],
    nuclei: Path,
    tmp_path: Path,
) -> None:
    """The second time two actors share a GPU, and the pool grows and shrinks with the work."""
    s3, name = bucket
    upload(s3, f"{name}/plates", pictures(nuclei, tmp_path / "in", IMAGES - 4))
    job = [
        "python",
        "-m",
        "jobs.segment",
        f"s3://{name}/plates",
        f"s3://{name}/masks",
        *SMALL,
        *FAST,
        "--workers",
        "1,2",
    ]
    here = ("--working-dir", ".")
    fleet.submit("first", job, {"env_vars": s3_server.environment}, *here)
    fleet.wait(lambda: rows(s3, name), 300)
    fleet.job("stop", "first")
    assert fleet.ended("first") == "STOPPED"
    assert f"segmenting {IMAGES} images" in fleet.logs("first")
    before = rows(s3, name)
    assert 0 < before < IMAGES

    environment = stage_log.environment(tmp_path / "stages")
    environment["env_vars"] |= s3_server.environment
    fleet.submit("second", [*job, "--gpus-per-worker", "0.5"], environment, *here)
    actors, _ = watch(fleet, "second")
    logs, passed = fleet.logs("second"), stage_log.read(tmp_path / "stages")
    assert re.search(r"^\d\d:\d\d:\d\d segmenting \d+ images$", logs, re.MULTILINE)
    assert re.search(r"^\d\d:\d\d:\d\d [\d,]+ of [\d,]+ images, [\d.]+ images/s, 0 failed", logs, re.MULTILINE)
    now = int(re.search(r"segmenting ([\d,]+) images", logs)[1].replace(",", ""))  # type: ignore[index]
    assert 0 < now < IMAGES
    assert s3_server.environment["AWS_SECRET_ACCESS_KEY"] not in logs

    assert list(devices(passed).values()) == ["0", "0"]
    assert {fleet.kinds()[r["node"]] for r in passed} == {"gpu", "cpu"}
    assert max(actors) == 2
    changes = [count for count, _ in groupby(actors)]
    assert "121" in "".join(map(str, changes))  # the second came for the queue, and one left while the other had work

    with duckdb.connect() as connection:
        connection.register_filesystem(s3)
        counted = connection.execute(
            f"select count(*), count(distinct image_id), count(error) from read_parquet('s3://{name}/masks/results/*')"
        ).fetchone()
        catalogued = connection.execute(f"select count(*) from read_parquet('s3://{name}/masks/catalog/*')").fetchone()
    assert counted == (IMAGES, IMAGES, 0)
    assert catalogued == (IMAGES,)
    uploaded_is_what_runs(fleet)


def test_without_the_token_nothing_is_submitted(fleet: Raylets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fleet.environment, "RAY_AUTH_TOKEN", "0" * 32)
    refused = fleet.job("submit", "--no-wait", "--", "true", check=False)
    assert refused.returncode != 0
    assert "token" in (refused.stdout + refused.stderr).lower()


def upload(s3: S3FileSystem, prefix: str, folder: Path) -> None:
    """The files of a folder, each as an object."""
    s3.pipe({f"{prefix}/{path.name}": path.read_bytes() for path in folder.iterdir()})


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
