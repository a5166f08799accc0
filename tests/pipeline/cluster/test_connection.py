"""Joining the cluster that the environment names: the message if that is not possible."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def joined(address: str) -> tuple[str, str]:
    """Stdout and stderr if RAY_ADDRESS names a cluster that cannot be joined."""
    code = (
        "from pipeline.cluster.connection import Connection; from pipeline.errors import InputError\n"
        "try: Connection().context()\n"
        "except InputError as error: print(error)"
    )
    command = [sys.executable, "-c", code]
    environment = os.environ | {"RAY_ADDRESS": address}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_an_address_where_nothing_listens_is_one_line() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # reserved, but nothing listens on it
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        message, noise = joined(address)
    assert message.startswith(f"RAY_ADDRESS='{address}': no Ray cluster answers there ([Errno ")
    assert message.endswith("unset it to run here\n")
    assert message.count("\n") == 1
    assert noise == ""


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "http://127.0.0.1:8265"])
def test_the_error_for_an_address_of_rays_client_or_dashboard_names_the_remedy(address: str) -> None:
    message, noise = joined(address)
    assert message.startswith(f"RAY_ADDRESS='{address}': ")
    assert "`ray job submit --address`" in message
    assert noise == ""
