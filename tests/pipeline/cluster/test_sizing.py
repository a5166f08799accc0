"""A job sized to the cluster as it is: its actors, windows and blocks, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from pipeline.cluster.sizing import PoolRequest, resources
from pipeline.errors import InputError

pytestmark = pytest.mark.slow

# Ray with four logical GPUs and a small object store: first as on this machine, then as if it were part of a cluster.
SCRIPT = """
import json, os, ray
from pipeline.cluster.sizing import PoolRequest, resources
from pipeline.errors import InputError

ray.init("local", num_cpus=2, num_gpus=4, object_store_memory=300_000_000, include_dashboard=False, log_to_driver=False)
os.environ.pop("RAY_ADDRESS", None)
os.environ.pop("RAY_JOB_ID", None)

def sized(images, size, *request):
    return resources(PoolRequest(*request), images, size, lambda text: None)

def chosen(*asked):
    for gpus in asked:
        try:
            found = sized(9, 3, None, gpus)
        except InputError as error:
            yield str(error)
        else:
            yield [found.num_gpus, found.num_cpus, found.pool.initial_size, *found.plain()["pool"]]

size = 800 * 1333 * 3
large = [sized(10**6, size, None, gpus, 2).window for gpus in (4, 2, 1)] + [sized(10**6, size, None, 1, 16).window]
small = [sized(10**6, 3, None, 1, 2).window, sized(48, 3, None, 1, 2).window, sized(48, 3, (1, 2), 1, 2).window]
here = list(chosen(8.0, 1.0, 0.0))
block = sized(48, 3).block
os.environ["RAY_JOB_ID"] = "01000000"
cluster = list(chosen(1.0, 0.0))
print(json.dumps(dict(large=large, small=small, block=block, here=here, cluster=cluster)))
"""


@pytest.fixture(scope="module")
def sizes() -> dict[str, Any]:
    """What the script printed."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_windows_and_blocks_fit_a_small_object_store(sizes: dict[str, Any]) -> None:
    """300 MB hold eight windows of 11 large images, which the actors of the node share, whatever the batch size.

    In a small job windows are also small enough that every actor gets work.
    """
    assert sizes["large"] == [11, 5, 2, 2]  # of one actor, two, four and four
    assert sizes["small"] == [64, 3, 6]  # 32 batches; a quarter of the share of each of four actors, of two
    assert sizes["block"] == 300_000_000 // 64


@pytest.mark.parametrize("cluster", [False, True])
def test_without_gpus_actors_compute_on_cores(local_ray: None, cluster: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    if cluster:
        monkeypatch.setenv("RAY_JOB_ID", "01000000")
    found = resources(PoolRequest(None, None), 9, 3, print)
    assert (found.num_gpus, found.num_cpus) == (0, 1.0)
    assert (found.pool.initial_size, *found.plain()["pool"]) == (1, 1, 1)


def test_gpus_that_a_machine_does_not_have_are_refused(local_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(InputError) as error:
        resources(PoolRequest(None, 1.0), 9, 3, print)
    assert str(error.value) == "--gpus-per-worker 1: this machine has no GPU; leave it out to compute on the CPU"


def test_the_pool_grows_with_a_cluster_and_not_with_a_machine(sizes: dict[str, Any]) -> None:
    on_cpus = [0, 1.0, 1, 1, 1]  # as requested
    assert sizes["here"] == ["--gpus-per-worker 8: this machine has 4; give no more", [1.0, 0, 4, 1, 4], on_cpus]
    assert sizes["cluster"] == [[1.0, 0, 4, 1, None], on_cpus]
