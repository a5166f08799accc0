"""Every command explains itself, as a subcommand and as a module."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from jobs.main import app

GROUPS = {
    "Which network": ["--weights", "--min-score", "--max-detections", "--precision", "--set"],
    "What to read": ["--limit", "--glob", "--column", "--tile", "--overlap", "--max-pixels", "--storage-option"],
    "How to run": [
        *["--workers", "--gpus-per-worker", "--batch-size", "--compile", "--nvjpeg", "--max-error-rate"],
        *["--plan", "--config"],
    ],
    "What to do again": ["--retry-errors", "--overwrite", "--yes"],
    "Output": ["--json", "--help"],
}


def help_of(command: str, columns: int = 120) -> str:
    result = CliRunner(env={"COLUMNS": str(columns)}).invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    return result.output


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
        "weights convert",
        "benchmark model",
        "benchmark gpu",
    ],
)
def test_help_teaches(command: str) -> None:
    text = help_of(command)
    assert "Usage:" in text
    assert len(text.splitlines()) > 8


@pytest.mark.parametrize("columns", [80, 120])
def test_the_options_of_segment_come_in_groups(columns: int) -> None:
    text = help_of("segment", columns)
    panels = re.split(r"^╭─ (.+?) ─+╮$", text, flags=re.MULTILINE)[1:]
    shown = dict(zip(panels[::2], panels[1::2], strict=True))
    assert list(shown) == ["Arguments", *GROUPS]
    for group, options in GROUPS.items():
        assert re.findall(r"^│ (--[a-z-]+)", shown[group], flags=re.MULTILINE) == options


def test_the_main_help_names_every_command() -> None:
    text = help_of("")
    for command in ("segment", "status", "query", "evaluate", "weights", "train", "demo", "benchmark"):
        assert re.search(rf"^│ {command} +[A-Z]", text, flags=re.MULTILINE), command


def test_a_command_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "jobs.segment", "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "INPUT... OUTPUT" in done.stdout
