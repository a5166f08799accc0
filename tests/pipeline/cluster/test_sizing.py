"""A job sized to the cluster as it is: its actors, windows and blocks, and what is refused."""

from __future__ import annotations

import subprocess
import sys


def test_windows_and_blocks_fit_a_small_object_store() -> None:
    """300 MB hold eight windows of 11 large images, which the actors of the node share, whatever the batch size.

    In a small job windows are also small enough that every actor gets work.
    """
    code = (
        "import ray; from pipeline.cluster.sizing import PoolRequest, resources; size = 800 * 1333 * 3; "
        "ray.init('local', num_cpus=1, num_gpus=4, object_store_memory=300_000_000, include_dashboard=False, "
        "log_to_driver=False); "
        "asked = ((4, 2, 10**6, size), (2, 2, 10**6, size), (1, 2, 10**6, size), (1, 16, 10**6, size), "
        "(1, 2, 10**6, 3), (1, 2, 48, 3)); "
        "sized = lambda images, size, *request: resources(PoolRequest(*request), images, size, print); "
        "print(*(sized(images, size, None, gpus, batch).window for gpus, batch, images, size in asked), "
        "sized(48, 3, (1, 2), 1, 2).window, sized(48, 3).block)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    *windows, block = map(int, done.stdout.split()[-8:])
    assert windows[:4] == [11, 5, 2, 2]  # of one actor, two, four and four
    assert windows[4:] == [64, 3, 6]  # 32 batches; a quarter of the share of each of four actors, of two
    assert block == 300_000_000 // 64


def sized(gpus: int, *asked: float | None) -> list[str]:
    """Errors and chosen resources with this many logical GPUs: first on this machine, then as part of a cluster."""
    code = (
        "import os, ray; from pipeline.cluster.sizing import PoolRequest, resources\n"
        "from pipeline.errors import InputError\n"
        f"ray.init('local', num_cpus=2, num_gpus={gpus}, include_dashboard=False, log_to_driver=False)\n"
        "os.environ.pop('RAY_ADDRESS', None); os.environ.pop('RAY_JOB_ID', None)\n"
        "for on_a_cluster in (False, True):\n"
        f"  for asked in {asked}:\n"
        f"    if on_a_cluster and (asked or 0) > {gpus}: continue\n"
        "    if on_a_cluster: os.environ['RAY_JOB_ID'] = '01000000'\n"
        "    try: chosen = resources(PoolRequest(None, asked), 9, 3, lambda text: print('#', text))\n"
        "    except InputError as error: print('#', error)\n"
        "    else: print('#', chosen.num_gpus, chosen.num_cpus, chosen.pool.initial_size, *chosen.plain()['pool'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [line[2:] for line in done.stdout.splitlines() if line.startswith("# ")]


def test_gpus_that_a_machine_does_not_have_are_refused() -> None:
    assert sized(0, 1.0, None) == [
        "--gpus-per-worker 1: this machine has no GPU; leave it out to compute on the CPU",
        "0 1.0 1 1 1",
        "0 1.0 1 1 1",
    ]


def test_the_pool_grows_with_a_cluster_and_not_with_a_machine() -> None:
    assert sized(2, 4.0, 1.0, 0.0) == [
        "--gpus-per-worker 4: this machine has 2; give no more",
        "1.0 0 2 1 2",
        "0 1.0 1 1 1",  # on CPUs, as requested
        "1.0 0 2 1 None",
        "0 1.0 1 1 1",
    ]
