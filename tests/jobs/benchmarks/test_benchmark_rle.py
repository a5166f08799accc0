"""`maskfleet benchmark rle` compares two encoders that agree."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from jobs.main import app


def test_both_encoders_are_measured() -> None:
    arguments = ["--size", "48x64", "--size", "30x20", "--instances", "3", "--rounds", "1", "--json"]
    done = CliRunner().invoke(app, ["benchmark", "rle", *arguments])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert all(report[size]["ours"] > 0 and report[size]["reference"] > 0 for size in ("48x64", "30x20"))


def test_a_size_that_is_not_one() -> None:
    done = CliRunner().invoke(app, ["benchmark", "rle", "--size", "big"])
    assert done.exit_code == 2
    assert "is not like 480x640" in done.stderr
