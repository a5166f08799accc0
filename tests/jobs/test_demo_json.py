"""The demo's figures as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.demo import run_demo
from jobs.sample.s3_server import S3Server


def test_demo_as_json(local_ray: None, s3_server: S3Server, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run_demo(s3_server.filesystem(), tmp_path, limit=3, as_json=True)
    result = json.loads(capsys.readouterr().out)
    assert result["evaluate"]["images"] == 3
    assert Path(result["picture"]).exists()
    assert result["drawn"] > 10
