"""The main job as it is run on a cluster: submitted over HTTP, its images and results in S3."""

from __future__ import annotations

import re
from itertools import groupby

import pytest
from support.fleet import ContinuedJob
from support.raylets import Raylets

from jobs.sample.s3_server import S3Server

pytestmark = pytest.mark.slow
ROOMS = {"jobs", "model", "pipeline"}


def test_a_stopped_job_is_continued_by_submitting_it_again(continued_job: ContinuedJob) -> None:
    job = continued_job
    assert sorted(row["uri"] for rows in job.results.values() for row in rows) == job.images  # every image, once
    kept = job.before.keys() & job.results.keys()
    assert kept
    assert all(job.before[file] == job.results[file] for file in kept)
    assert 0 < len(job.new_rows) < len(job.images)
    assert f"segmenting {len(job.new_rows)} images" in job.logs


def test_the_pool_grows_and_shrinks_with_the_work(continued_job: ContinuedJob) -> None:
    changes = "".join(str(count) for count, _ in groupby(continued_job.actors))
    assert max(continued_job.actors) == 2
    assert "121" in changes  # the second came for the queue, and one left while the other had work


def test_the_log_of_a_submitted_job_reports_progress_and_keeps_secrets(
    continued_job: ContinuedJob, s3_server: S3Server
) -> None:
    logs = continued_job.logs
    assert re.search(r"^\d\d:\d\d:\d\d segmenting \d+ images$", logs, re.MULTILINE)
    assert re.search(r"^\d\d:\d\d:\d\d [\d,]+ of [\d,]+ images, [\d.]+ images/s, \d failed", logs, re.MULTILINE)
    assert s3_server.environment["AWS_SECRET_ACCESS_KEY"] not in logs


def test_the_working_directory_on_the_cluster_holds_the_packages_and_no_more(
    fleet: Raylets, continued_job: ContinuedJob
) -> None:
    copies = list(fleet.folder.glob("head/session_*/runtime_resources/working_dir_files/_ray_pkg_*/"))
    assert copies
    for copy in copies:
        present = {p.name for p in copy.iterdir()}
        assert present >= ROOMS
        assert not present & {"tests", "docs", ".git", ".venv", "demo-output"}
        assert sum(p.stat().st_size for p in copy.rglob("*") if p.is_file()) < 100 << 20


def test_without_the_token_nothing_is_submitted(fleet: Raylets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fleet.environment, "RAY_AUTH_TOKEN", "0" * 32)
    refused = fleet.job("submit", "--no-wait", "--", "true", check=False)
    assert refused.returncode != 0
    assert "token" in (refused.stdout + refused.stderr).lower()
