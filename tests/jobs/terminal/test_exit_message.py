"""The message appears when the process is killed, and not when it ends normally."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import os, signal, sys
from jobs.terminal.exit_message import exit_message
with exit_message("the end"):
    {end}
"""


@pytest.mark.parametrize(
    ("end", "printed"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", True),
        ("os._exit(1)", True),
        ("pass", False),
        ("sys.exit(3)", False),
        ("raise KeyboardInterrupt", False),
    ],
)
def test_a_message_is_printed_only_when_the_process_is_killed(end: str, printed: bool) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(end=end)], capture_output=True, text=True, timeout=60)
    assert ("the end" in done.stderr) == printed
