"""`maskfleet benchmark catalog` catalogues its images."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from jobs.main import app


def test_all_images_are_catalogued() -> None:
    done = CliRunner().invoke(app, ["benchmark", "catalog", "--images", "1200", "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["images"] == 1200
    assert report["catalog_bytes"] > 0
