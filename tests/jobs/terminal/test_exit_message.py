"""A process that is killed still has its last words said; one that ends by itself does not."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import os, signal, sys
from jobs.terminal.exit_message import exit_message
with exit_message("the end"):
    {act}
"""


@pytest.mark.parametrize(
    ("act", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", True),
        ("os._exit(1)", True),
        ("pass", False),
        ("sys.exit(3)", False),
        ("raise KeyboardInterrupt", False),
    ],
)
def test_said_when_nothing_else_can(act: str, said: bool) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(act=act)], capture_output=True, text=True, timeout=60)
    assert ("the end" in done.stderr) == said
