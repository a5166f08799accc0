"""How the actor pool is sized: never so that the tasks which feed it have no room."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import Preset
from model.batching import batches_by_shape
from model.layers.transform import resized_size
from pipeline.cluster.sizing import LIGHT_CPUS, _holds, _room, _window, actors_on, on_cpus, on_gpus

PHOTOGRAPHS = {  # height and width of 64 photographs of COCO 2017, and how many have them
    (480, 640): 15, (427, 640): 7, (640, 480): 6, (426, 640): 4, (428, 640): 3, (640, 427): 2, (425, 640): 2,
    (375, 500): 2, (422, 640): 1, (449, 640): 1, (640, 634): 1, (559, 640): 1, (461, 640): 1, (612, 612): 1,
    (500, 375): 1, (461, 614): 1, (418, 640): 1, (346, 500): 1, (424, 640): 1, (423, 640): 1, (406, 500): 1,
    (500, 351): 1, (489, 640): 1, (522, 640): 1, (420, 640): 1, (640, 426): 1, (511, 640): 1, (478, 640): 1,
    (406, 640): 1, (414, 640): 1, (334, 500): 1,
}  # fmt: skip
NODES = st.lists(st.integers(1, 128), min_size=1, max_size=6)


def held(cores: list[int], claim: float, beside: float = 0.0) -> list[int]:
    """Actors of such a claim for which each node has room, with so many cores free beside them."""
    return [int((n - beside) / claim + 1e-9) for n in cores]


@given(NODES, st.none() | st.integers(1, 64))
def test_light_tasks_fit_beside_the_actors_of_each_node(cores: list[int], workers: int | None) -> None:
    chosen = on_cpus((workers, workers) if workers else None, cores, 8)
    actors = chosen.pool.max_size
    assert chosen.num_cpus > 0
    assert chosen.num_cpus < 1 or chosen.num_cpus == int(chosen.num_cpus)  # Ray takes fractions below one only
    assert sum(held(cores, chosen.num_cpus, LIGHT_CPUS)) >= actors
    assert any(held(cores, chosen.num_cpus))
    assert 1 <= chosen.threads <= max(cores)
    assert workers in (None, actors)


@given(NODES.filter(lambda cores: min(cores) >= 2))
def test_most_cores_compute_whatever_the_nodes_are(cores: list[int]) -> None:
    chosen = on_cpus(None, cores, 8)
    used = chosen.pool.max_size * chosen.threads
    assert sum(cores) / 2 <= used <= sum(cores)
    assert chosen.threads <= 8


@pytest.mark.parametrize(
    ("cores", "actors", "threads"),
    [
        ([2, 64], 8, 8),  # two cores for light tasks alone
        ([4, 16, 16], 4, 8),
        ([4, 4, 4, 4, 16], 8, 4),  # too many small ones to leave them out
        ([16, 16], 4, 8),
        ([12], 2, 6),
    ],
)
def test_actors_of_unlike_nodes(cores: list[int], actors: int, threads: int) -> None:
    chosen = on_cpus(None, cores, 8)
    assert (chosen.pool.max_size, chosen.threads) == (actors, threads)


def test_so_many_actors_as_asked_for_are_as_large_as_they_can_be() -> None:
    few, many = (on_cpus((1, n), [4, 16, 16], 8) for n in (2, 9))
    assert (few.pool.min_size, few.pool.max_size, few.threads, few.num_cpus) == (1, 2, 16, 15)
    assert (many.pool.max_size, many.threads) == (9, 4)


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


def test_batches_fill_on_mixed_photographs() -> None:
    """Of the window that an actor on a GPU takes where memory allows, batches are full by three quarters."""
    chosen, preset = on_gpus((1, 1), 1, 16), Preset()
    sizes = [resized_size(*size, preset) for size, count in PHOTOGRAPHS.items() for _ in range(count)]
    drawn = [random.Random(seed).choices(sizes, k=chosen.window) for seed in range(10)]
    passes = sum(len(batches_by_shape(window, preset, chosen.batch_size)) for window in drawn)
    assert passes * chosen.batch_size * 0.75 < len(drawn) * chosen.window


def test_windows_and_blocks_fit_a_small_object_store() -> None:
    """300 MB hold eight windows of 11 large images, shared by the actors of the node, whatever the batch.

    Nor are they so wide that some of a job's actors have nothing to do while others work.
    """
    code = (
        "import ray; from pipeline.cluster.sizing import resources; size = 800 * 1333 * 3; "
        "ray.init('local', num_cpus=1, num_gpus=4, object_store_memory=300_000_000, include_dashboard=False, "
        "log_to_driver=False); "
        "asked = ((4, 2, 10**6, size), (2, 2, 10**6, size), (1, 2, 10**6, size), (1, 16, 10**6, size), "
        "(1, 2, 10**6, 3), (1, 2, 48, 3)); "
        "print(*(resources(None, gpus, batch, print, images, size).window for gpus, batch, images, size in asked), "
        "resources((1, 2), 1, 2, print, 48, 3).window, resources(None, None, None, print, 48, 3).block)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    *windows, block = map(int, done.stdout.split()[-8:])
    assert windows[:4] == [11, 5, 2, 2]  # of one actor, two, four, four
    assert windows[4:] == [64, 3, 6]  # 32 batches; a quarter of the share of each of four actors, of two
    assert block == 300_000_000 // 64


def test_an_actor_has_its_gpus_on_one_node_and_a_fraction_on_one_gpu() -> None:
    assert actors_on([1, 1, 1], 2) == 0
    assert actors_on([4, 1, 3], 2) == 3
    assert actors_on([2, 1], 0.5) == 6
    assert actors_on([4], 0.3) == 12
    assert actors_on([], 1) == 0


def test_windows_fit_the_memory_of_the_nodes_that_hold_actors() -> None:
    size = 800 * 1333 * 3
    beside = [{"CPU": 4, "object_store_memory": 10**12}, {"object_store_memory": 1}]
    wide = replace(on_gpus((1, 1), 1, 16), window=10**6)

    def window(node: dict[str, float], image_bytes: int = size) -> int:
        return _window(wide, 10**6, _room([node, *beside], lambda n: int(n.get("GPU", 0)), image_bytes))

    assert window({"CPU": 4, "GPU": 8, "object_store_memory": 10**12}) == 4884
    assert window({"GPU": 1, "object_store_memory": 16 * 10**9}) == 625  # as in cluster.yaml
    assert window({"GPU": 1, "object_store_memory": 16 * 10**9}, 5 * 10**8) == 4  # as slides of 500 MB
    assert window({"GPU": 1, "object_store_memory": 16 * 10**9}, 10**11) == 1


def sized(gpus: int, *asked: float | None) -> list[str]:
    """What is refused and chosen with so many logical GPUs: on this machine, then as a cluster where that is up."""
    code = (
        "import os, ray; from pipeline.cluster.sizing import resources; from pipeline.errors import InputError\n"
        f"ray.init('local', num_cpus=2, num_gpus={gpus}, include_dashboard=False, log_to_driver=False)\n"
        "os.environ.pop('RAY_ADDRESS', None); os.environ.pop('RAY_JOB_ID', None)\n"
        "for on_a_cluster in (False, True):\n"
        f"  for asked in {asked}:\n"
        f"    if on_a_cluster and (asked or 0) > {gpus}: continue\n"
        "    if on_a_cluster: os.environ['RAY_JOB_ID'] = '01000000'\n"
        "    try: chosen = resources(None, asked, None, lambda text: print('#', text), 9, 3)\n"
        "    except InputError as error: print('#', error)\n"
        "    else: print('#', chosen.num_gpus, chosen.num_cpus, chosen.pool.initial_size, *chosen.plain()['pool'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [line[2:] for line in done.stdout.splitlines() if line.startswith("# ")]


def test_gpus_that_a_machine_has_not_are_refused() -> None:
    assert sized(0, 1.0, None) == [
        "--gpus-per-worker 1: this machine has no GPU; without it the CPU computes",
        "0 1.0 1 1 1",
        "0 1.0 1 1 1",
    ]


def test_the_pool_grows_with_a_cluster_and_not_with_a_machine() -> None:
    assert sized(2, 4.0, 1.0, 0.0) == [
        "--gpus-per-worker 4: this machine has 2; give no more",
        "1.0 0 2 1 2",
        "0 1.0 1 1 1",  # on its CPUs, since the user wants that
        "1.0 0 2 1 None",
        "0 1.0 1 1 1",
    ]


def test_a_node_holds_actors_where_it_has_what_they_compute_on() -> None:
    cpus, gpus, head = {"CPU": 4.0}, {"CPU": 4.0, "GPU": 1.0}, {"CPU": 0.0}
    assert [_holds([head, cpus], asked) for asked in (None, 0, 0.5, 1, 2)] == [True, True, False, False, False]
    assert [_holds([head, gpus], asked) for asked in (None, 0, 0.5, 1, 2)] == [True, True, True, True, False]
    assert [_holds([head, {"GPU": 1.0}], asked) for asked in (None, 0, 1)] == [True, False, True]
    assert not any(_holds([head], asked) for asked in (None, 0, 1))
