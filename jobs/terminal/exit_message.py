"""What is said of a job that could not say it: its process ended without running another line of ours.

Ray's core ends the driver when its node manager dies, and the system kills what takes too much memory. A small
process waits beside the job for the end of a pipe; if nothing came through it first, it says what happened.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

WAITER = "import sys; sys.stdin.read() or print(sys.argv[1], file=sys.stderr)"


@contextmanager
def exit_message(text: str) -> Iterator[None]:
    """Has a line said on stderr if this process ends inside the context other than by returning or raising."""
    waiter = subprocess.Popen(
        [sys.executable, "-S", "-c", WAITER, text],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the job
    )
    assert waiter.stdin
    try:
        yield
    finally:
        waiter.stdin.write(b"ended")
        waiter.stdin.close()
        waiter.wait()
