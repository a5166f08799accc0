"""Help and small commands start at once: they do not import large libraries."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer
from support.results import failed, write_output

from jobs.main import app

ROOT = Path(__file__).parents[3]
NETWORK = {"torch", "torchvision", "ray", "numba", "pycocotools", "safetensors", "PIL", "tifffile", "imagecodecs"}
STORES = {"s3fs", "botocore", "aiohttp", "pandas"}
ARROW = {"duckdb", "pyarrow", "numpy", "fsspec"}
LARGE = NETWORK | STORES | ARROW

# Runs commands one after another. After each, prints its exit status, its output, and the packages imported by then.
SCRIPT = """
import contextlib, io, json, sys
from jobs.main import app
for command in json.loads(sys.argv[1]):
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        try:
            app(command, prog_name="maskfleet")
        except SystemExit as end:
            status = end.code
    print(json.dumps([status, shown.getvalue(), sorted({name.split(".")[0] for name in sys.modules})]))
"""
FIRST_PHASE = """
import json, sys
from jobs.main import app
from jobs.terminal.live_display import Display
def phase(self, text):
    print(text)
    print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
    sys.stdout.flush()
    raise SystemExit
Display.phase = phase
app(["segment", "nowhere", "out"], prog_name="maskfleet")
"""


def python(script: str, *arguments: str) -> list[str]:
    """Runs a script in a process of its own and returns the lines of its output."""
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def run(*commands: list[str]) -> list[tuple[int, str, set[str]]]:
    """Runs commands in one process of their own: exit status, output and imported packages of each."""
    lines = [json.loads(line) for line in python(SCRIPT, json.dumps(commands))]
    return [(status, output, set(packages)) for status, output, packages in lines]


def every_command(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The names that lead to each command and subcommand."""
    yield path
    for name in getattr(command, "list_commands", lambda _: [])(None):
        yield from every_command(command.get_command(None, name), (*path, name))


def test_help_the_version_and_the_list_of_weights_import_no_large_library() -> None:
    commands = list(every_command(typer.main.get_command(app)))
    assert ("weights", "convert") in commands
    assert len(commands) > 15
    *helps, number, weights = run(*([*path, "--help"] for path in commands), ["--version"], ["weights", "list"])
    for command, (status, output, packages) in zip(commands, helps, strict=True):
        assert status == 0, command
        assert f"Usage: {' '.join(['maskfleet', *command])}" in output
        assert packages & LARGE == set(), command
    assert number[:2] == (0, f"maskfleet {version('maskfleet')}\n")
    assert weights[0] == 0
    assert "nuclei" in weights[1]
    assert weights[2] & LARGE == set()


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_output(tmp_path_factory.mktemp("startup") / "out", [failed("a.png", "DamagedImage: cut")]).url


def test_status_imports_only_what_reads_parquet(output: str) -> None:
    ((status, shown, packages),) = run(["status", output])
    assert status == 0
    assert "DamagedImage" in shown
    assert packages & (NETWORK | STORES | {"duckdb"}) == set()


def test_query_imports_only_duckdb_and_what_reads_parquet(output: str) -> None:
    ((status, shown, packages),) = run(["query", output, "select reason from errors", "--json"])
    assert status == 0
    assert json.loads(shown) == [{"reason": "cut"}]
    assert packages & (NETWORK | STORES) == set()


def test_segment_prints_its_first_line_before_it_loads_pytorch_and_ray() -> None:
    text, packages = python(FIRST_PHASE)
    assert text == "loading PyTorch and Ray"
    assert set(json.loads(packages)) & (NETWORK | STORES | {"duckdb"}) == set()
