"""Runs `maskfleet` in this process, and reads what it wrote.

A command that starts Ray finds the one that the `local_ray` fixture started, so a small job takes some seconds.
Tests of signals, kills and exit messages need a process; see `support.faults.jobs`.
"""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.dataset as pads
from typer.testing import CliRunner, Result

from jobs.main import app


@dataclass(frozen=True)
class Segmented:
    """A folder of images, the output of a job over it, and the record that the job printed."""

    inputs: Path
    output: Path
    record: dict[str, Any]


def maskfleet(*arguments: object) -> Result:
    """Runs a command; its exit code and what it printed."""
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    if done.exit_code:  # the frames of a failed job hold its actors, which would keep their cores
        done.exception = done.exc_info = None
        gc.collect()
    return done


def segment(*arguments: object, status: int = 0) -> dict[str, Any]:
    """Runs `maskfleet segment --json` and returns the record of the run; empty if it printed none.

    Args:
        arguments: inputs, output and options.
        status: the exit status that it must have.
    """
    done = maskfleet("segment", *arguments, "--json")
    assert done.exit_code == status, f"exit status {done.exit_code}:\n{done.stderr}"
    return json.loads(done.stdout) if done.stdout else {}


def results(output: Path) -> list[dict[str, Any]]:
    """The rows of an output on the local disk, ordered by address."""
    return pads.dataset(str(output / "results"), format="parquet").to_table().sort_by("uri").to_pylist()


def options_for(environment: dict[str, str]) -> list[str]:
    """The storage options that say what AWS variables would: for one command, and without the environment.

    Args:
        environment: as `S3Server.environment`.
    """
    names = {"key": "AWS_ACCESS_KEY_ID", "secret": "AWS_SECRET_ACCESS_KEY", "endpoint_url": "AWS_ENDPOINT_URL_S3"}
    given = [(option, environment[variable]) for option, variable in names.items() if variable in environment]
    return [text for option, value in given for text in ("--storage-option", f"s3.{option}={value}")]


@contextmanager
def in_background(action: Callable[[threading.Event], None]) -> Iterator[None]:
    """Runs an action in a thread while the body runs a job; fails if the action fails.

    Args:
        action: called with an event that is set when the job has ended, for what would wait for something in it.
    """
    ended, errors = threading.Event(), list[BaseException]()

    def run() -> None:
        try:
            action(ended)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if errors:
        raise errors[0]


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file below a folder, and its bytes."""
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
