"""Which actors fit on the nodes of a cluster."""

from __future__ import annotations

from pipeline.cluster.nodes import actors_that_fit, holds_an_actor


def test_an_actor_has_its_gpus_on_one_node_and_a_fraction_on_one_gpu() -> None:
    assert actors_that_fit([1, 1, 1], 2) == 0
    assert actors_that_fit([4, 1, 3], 2) == 3
    assert actors_that_fit([2, 1], 0.5) == 6
    assert actors_that_fit([4], 0.3) == 12
    assert actors_that_fit([], 1) == 0


def test_a_node_holds_an_actor_if_it_has_the_device_for_it() -> None:
    cpus, gpus, head = {"CPU": 4.0}, {"CPU": 4.0, "GPU": 1.0}, {"CPU": 0.0}
    assert [holds_an_actor([head, cpus], asked) for asked in (None, 0, 0.5, 1, 2)] == [True, True, False, False, False]
    assert [holds_an_actor([head, gpus], asked) for asked in (None, 0, 0.5, 1, 2)] == [True, True, True, True, False]
    assert [holds_an_actor([head, {"GPU": 1.0}], asked) for asked in (None, 0, 1)] == [True, False, True]
    assert not any(holds_an_actor([head], asked) for asked in (None, 0, 1))
