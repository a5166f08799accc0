"""The size of the actor pool: it always leaves room for the tasks that feed it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import Preset
from model.batching import batches_by_shape
from model.layers.transform import resized_size
from pipeline.cluster.actor_pool import TASK_CPUS, on_cpus, on_gpus

PHOTOGRAPHS = {  # height and width of 64 photographs of COCO 2017, and how many have them
    (480, 640): 15, (427, 640): 7, (640, 480): 6, (426, 640): 4, (428, 640): 3, (640, 427): 2, (425, 640): 2,
    (375, 500): 2, (422, 640): 1, (449, 640): 1, (640, 634): 1, (559, 640): 1, (461, 640): 1, (612, 612): 1,
    (500, 375): 1, (461, 614): 1, (418, 640): 1, (346, 500): 1, (424, 640): 1, (423, 640): 1, (406, 500): 1,
    (500, 351): 1, (489, 640): 1, (522, 640): 1, (420, 640): 1, (640, 426): 1, (511, 640): 1, (478, 640): 1,
    (406, 640): 1, (414, 640): 1, (334, 500): 1,
}  # fmt: skip
NODES = st.lists(st.integers(1, 128), min_size=1, max_size=6)


def fitting(cores: list[int], claim: float, beside: float = 0.0) -> list[int]:
    """How many actors of a claim fit on each node with so many cores left free."""
    return [int((n - beside) / claim + 1e-9) for n in cores]


@given(NODES, st.none() | st.integers(1, 64))
def test_light_tasks_fit_beside_the_actors_of_each_node(cores: list[int], workers: int | None) -> None:
    chosen = on_cpus((workers, workers) if workers else None, cores, 8)
    actors = chosen.pool.max_size
    assert chosen.num_cpus > 0
    assert chosen.num_cpus < 1 or chosen.num_cpus == int(chosen.num_cpus)  # Ray accepts fractions below one only
    assert sum(fitting(cores, chosen.num_cpus, TASK_CPUS)) >= actors
    assert any(fitting(cores, chosen.num_cpus))
    assert 1 <= chosen.threads <= max(cores)
    assert workers in (None, actors)


@given(NODES.filter(lambda cores: min(cores) >= 2))
def test_most_cores_compute_on_any_mix_of_nodes(cores: list[int]) -> None:
    chosen = on_cpus(None, cores, 8)
    used = chosen.pool.max_size * chosen.threads
    assert sum(cores) / 2 <= used <= sum(cores)
    assert chosen.threads <= 8


@pytest.mark.parametrize(
    ("cores", "actors", "threads"),
    [
        ([2, 64], 8, 8),  # two cores for light tasks only
        ([4, 16, 16], 4, 8),
        ([4, 4, 4, 4, 16], 8, 4),  # too many small nodes to leave them out
        ([16, 16], 4, 8),
        ([12], 2, 6),
    ],
)
def test_actors_on_nodes_of_different_sizes(cores: list[int], actors: int, threads: int) -> None:
    chosen = on_cpus(None, cores, 8)
    assert (chosen.pool.max_size, chosen.threads) == (actors, threads)


def test_requested_actors_are_as_large_as_possible() -> None:
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
    """The full window of an actor on a GPU fills its batches to at least three quarters."""
    chosen, preset = on_gpus((1, 1), 1, 16), Preset()
    sizes = [resized_size(*size, preset) for size, count in PHOTOGRAPHS.items() for _ in range(count)]
    drawn = [random.Random(seed).choices(sizes, k=chosen.window) for seed in range(10)]
    passes = sum(len(batches_by_shape(window, preset, chosen.batch_size)) for window in drawn)
    assert passes * chosen.batch_size * 0.75 < len(drawn) * chosen.window
