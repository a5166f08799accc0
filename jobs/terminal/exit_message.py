"""Prints a message when this process is killed.

Ray's core ends the driver when its node manager dies, and the system kills processes when memory runs out. In both
cases no more Python code of ours runs. So a small process waits at the end of a pipe. If the pipe closes before
anything was written to it, the small process prints the message.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

WATCHER = "import sys; sys.stdin.read() or print(sys.argv[1], file=sys.stderr)"


@contextmanager
def exit_message(text: str) -> Iterator[None]:
    """Prints a line on stderr if this process ends within the context, unless by returning or by an exception."""
    watcher = subprocess.Popen(
        [sys.executable, "-S", "-c", WATCHER, text],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C must not reach it
    )
    assert watcher.stdin
    try:
        yield
    finally:
        watcher.stdin.write(b"ended")
        watcher.stdin.close()
        watcher.wait()
