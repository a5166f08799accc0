"""Replaces a starting worker process of Ray with a fork of the tests' server, see `support/forkserver.py`.

This process asks for the fork, and then ends when the fork ends. If there is no server, the worker starts as ever.
"""

import json
import os
import socket
import sys

SCRIPTS = ("/ray/_private/workers/setup_worker.py", "/ray/_private/workers/default_worker.py")


def ask_for_fork(arguments: list[str]) -> None:
    """Asks for a fork that runs a script with its arguments, and waits for its end."""
    asked = {"arguments": arguments, "path": sys.path, "folder": os.getcwd(), "pid": os.getpid()}
    asked |= {"environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ["TESTS_FORKSERVER"])
        socket.send_fds(connection, [json.dumps(asked).encode()], [0, 1, 2])
        connection.recv(1)


options = sys.orig_argv[1:]
while options and options[0].startswith("-"):
    options.pop(0)
if options and options[0].endswith(SCRIPTS):
    ask_for_fork(options)
    os._exit(0)
