"""Every command explains itself, as a subcommand and as a module."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from jobs.main import app


@pytest.mark.parametrize(
    "command",
    [
        "segment",
        "status",
        "query",
        "evaluate",
        "demo",
        "train",
        "weights list",
        "weights show",
        "benchmark model",
        "benchmark gpu",
    ],
)
def test_help_teaches(command: str) -> None:
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output
    assert len(result.output.splitlines()) > 8


def test_a_command_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "jobs.segment", "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "INPUT... OUTPUT" in done.stdout
