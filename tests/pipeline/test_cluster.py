"""How the actor pool is sized: never so that the tasks which feed it have no room."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cluster import LIGHT_CPUS, on_cpus, on_gpus


@given(st.lists(st.integers(1, 128), min_size=1, max_size=6), st.none() | st.integers(1, 64))
def test_light_tasks_fit_beside_the_actors(cores: list[int], workers: int | None) -> None:
    chosen = on_cpus((workers, workers) if workers else None, cores, 8)
    actors = chosen.pool.max_size
    assert chosen.num_cpus > 0
    assert chosen.num_cpus < 1 or chosen.num_cpus == int(chosen.num_cpus)  # Ray takes fractions below one only
    left = sum(cores) - actors * chosen.num_cpus
    assert left >= LIGHT_CPUS
    assert 1 <= chosen.threads <= max(1, min(cores))


def test_two_cores_are_one_actor_on_both() -> None:
    chosen = on_cpus(None, [2], 8)
    assert (chosen.pool.max_size, chosen.num_cpus, chosen.threads) == (1, 1, 2)


def test_a_large_machine_has_actors_of_eight_threads() -> None:
    chosen = on_cpus(None, [64], 8)
    assert (chosen.pool.max_size, chosen.threads) == (8, 8)


def test_gpu_actors_claim_no_core_and_may_grow() -> None:
    chosen = on_gpus((1, None), 0.5, 16)
    assert (chosen.num_gpus, chosen.num_cpus) == (0.5, 0)
    assert chosen.pool.min_size == 1


def test_windows_fit_a_small_object_store() -> None:
    """Two logical GPUs share 600 MB: an actor's window is a batch; with 12 GB it is four."""
    code = (
        "import ray; from pipeline.cluster import resources; "
        "ray.init(num_cpus=1, num_gpus=2, object_store_memory={store}, include_dashboard=False, log_to_driver=False); "
        "print(resources(None, 1.0, None).window)"
    )
    seen = []
    for store in (600_000_000, 12_000_000_000):
        command = [sys.executable, "-c", code.format(store=store)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        seen.append(int(done.stdout.split()[-1]))
    assert seen == [16, 64]


def test_gpus_that_are_asked_for_are_waited_for_on_a_cluster_only() -> None:
    """A cluster of CPU nodes may have a group of GPU machines that has not started any."""
    code = (
        "import os, ray; from pipeline.cluster import resources; from pipeline.errors import InputError; "
        "ray.init(num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False); "
        "os.environ.pop('RAY_ADDRESS', None); os.environ.pop('RAY_JOB_ID', None)\n"
        "try: resources(None, 1.0, None)\n"
        "except InputError as error: print(error)\n"
        "os.environ['RAY_JOB_ID'] = '01000000'; chosen = resources(None, 0.5, None)\n"
        "print(chosen.num_gpus, chosen.num_cpus, chosen.pool.min_size, resources(None, None, None).num_gpus)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    refused, waiting = done.stdout.splitlines()[-2:]
    assert refused == "--gpus-per-worker 1: this machine has no GPU; without it the CPU computes"
    assert waiting == "0.5 0 1 0"


def joined(address: str) -> tuple[str, str]:
    """What is said on stdout and stderr where RAY_ADDRESS names a cluster that cannot be joined."""
    code = (
        "from pipeline.cluster import Connection; from pipeline.errors import InputError\n"
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
