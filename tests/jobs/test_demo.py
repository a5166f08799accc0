"""The demo ends with figures and a picture, and leaves nothing running."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.dataset as pads
import pytest
from PIL import Image

pytestmark = pytest.mark.slow
LIMIT = 3


def start(to: Path, limit: int, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "jobs.main", "demo", "--to", str(to), "--limit", str(limit), *options]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    environment |= {"TMPDIR": str(to.parent), "RAY_TMPDIR": tempfile.gettempdir()}  # Ray's is short: it holds sockets
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)


def servers(to: Path) -> set[int]:
    """Finds the S3 servers that a demo to this folder has started."""
    processes = psutil.process_iter(["name", "cmdline"])
    return {
        p.pid for p in processes if p.info["name"] == "weed" and str(to.parent) in " ".join(p.info["cmdline"] or ())
    }


def test_demo_measures_and_draws(tmp_path: Path) -> None:
    process = start(tmp_path / "out", LIMIT)
    stdout, stderr = process.communicate(timeout=400)
    assert process.returncode == 0, stderr
    assert re.search(r"masks +0\.\d{3}", stdout)
    assert f"{LIMIT} images" in stdout
    picture = np.asarray(Image.open(tmp_path / "out" / "nuclei.png"))
    assert str(tmp_path / "out" / "nuclei.png") in stdout
    assert (picture.std(axis=2) > 40).mean() > 0.01  # coloured outlines on microscope images
    table = pads.dataset(str(tmp_path / "out" / "nuclei-masks" / "results"), format="parquet").to_table()
    assert len(table) == len(set(table["uri"].to_pylist())) == LIMIT
    assert not servers(tmp_path / "out")


def test_a_demo_that_is_told_to_end_stops_its_server(tmp_path: Path) -> None:
    """By SIGTERM, which the demo handles as an interrupt."""
    process = start(tmp_path / "out", 4)
    deadline = time.monotonic() + 60
    while not servers(tmp_path / "out"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Traceback" not in stderr
    assert not servers(tmp_path / "out")
