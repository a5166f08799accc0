"""Joining the cluster that the environment names: what is said where that cannot be done."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest


def joined(address: str) -> tuple[str, str]:
    """What is said on stdout and stderr where RAY_ADDRESS names a cluster that cannot be joined."""
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
        closed.bind(("127.0.0.1", 0))  # kept from others, and never listened on
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        said, noise = joined(address)
    assert said.startswith(f"RAY_ADDRESS='{address}': no Ray cluster answers there ([Errno ")
    assert said.endswith("unset it to run here\n")
    assert said.count("\n") == 1
    assert noise == ""


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "http://127.0.0.1:8265"])
def test_an_address_of_rays_client_or_dashboard_is_told_what_to_do(address: str) -> None:
    said, noise = joined(address)
    assert said.startswith(f"RAY_ADDRESS='{address}': ")
    assert "`ray job submit --address`" in said
    assert noise == ""
