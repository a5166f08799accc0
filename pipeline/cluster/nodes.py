"""The nodes of the cluster: which are up, what fits on them, and waiting for the first that holds an actor."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.errors import InputError
from pipeline.storage import one_line

Node = dict[str, float]  # the resources of a node


def on_a_cluster() -> bool:
    """Whether the environment names a cluster, as it does inside `ray job submit`."""
    return bool(os.environ.get("RAY_ADDRESS") or os.environ.get("RAY_JOB_ID"))


def nodes_up() -> list[Node]:
    """The resources of each node that is alive."""
    return [n["Resources"] for n in ray.nodes() if n["Alive"]]


def start_on_driver_node(actor_class: type, **options: Any) -> Any:
    """Starts an actor on the driver's node. It takes no core and restarts if its process dies."""
    driver_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(actor_class)
    return actor.options(num_cpus=0, max_restarts=-1, scheduling_strategy=driver_node, **options).remote()


def actors_that_fit(gpus: list[float], gpus_per_worker: float) -> int:
    """Counts the actors that fit on nodes. An actor's GPUs are on one node, and a fraction is of one GPU.

    Args:
        gpus: of each node.
    """
    if gpus_per_worker < 1:
        return sum(int(n) * int(1 / gpus_per_worker) for n in gpus)
    return sum(int(n // gpus_per_worker) for n in gpus)


def gpu_actors(nodes: list[Node], gpus_per_worker: float) -> int:
    """Counts the actors that the nodes' GPUs can hold."""
    return actors_that_fit([n.get("GPU", 0) for n in nodes], gpus_per_worker)


def cores(nodes: list[Node]) -> list[int]:
    """The cores of each node that has any."""
    return [int(n["CPU"]) for n in nodes if n.get("CPU", 0) >= 1]


def holds_an_actor(nodes: list[Node], gpus_per_worker: float | None) -> bool:
    """Whether some node has the GPUs of an actor, or a core if the actor may compute on CPUs."""
    if gpus_per_worker != 0 and gpu_actors(nodes, gpus_per_worker or 1):
        return True
    return not gpus_per_worker and bool(cores(nodes))


def nodes_for_actors(gpus_per_worker: float | None, actors: int, report: Callable[[str], None]) -> list[Node]:
    """The nodes, once at least one of them holds an actor.

    A cluster without such a node is waited for before the plan starts. Decoded images would soon fill its nodes, and
    the size of a window depends on the memory of the actor's node.

    Args:
        gpus_per_worker: None: an actor computes on a GPU if there is one, and on CPUs if there is none.
        actors: how many to ask a cluster for in the meantime.
        report: receives a sentence that says what the job waits for.

    Raises:
        InputError: this machine is not part of a cluster and does not have these GPUs, or the cluster refuses them.
    """
    nodes, gpus = nodes_up(), 1 if gpus_per_worker is None else gpus_per_worker
    if holds_an_actor(nodes, gpus_per_worker):
        return nodes
    most = max((n.get("GPU", 0) for n in nodes), default=0)
    if on_a_cluster():
        what = f"{gpus:g} GPU{'s' if gpus > 1 else ''}" if gpus else "a CPU"
        up = f"the largest that is up has {most:g}" if most and gpus else "none is up"
        report(f"waiting for a node that has {what} for an actor (--gpus-per-worker); {up}")
        return _wait_for_nodes(lambda nodes: holds_an_actor(nodes, gpus_per_worker), actors, gpus)
    if most:
        raise InputError(f"--gpus-per-worker {gpus:g}: this machine has {most:g}; give no more")
    raise InputError(f"--gpus-per-worker {gpus:g}: this machine has no GPU; leave it out to compute on the CPU")


def _wait_for_nodes(enough: Callable[[list[Node]], bool], actors: int, num_gpus: float) -> list[Node]:
    """The nodes, once they are enough. Until then Ray's autoscaler is asked for nodes that fit so many actors.

    The request is made of tasks that wait for a place, as the actors would. They end with this driver, however it
    ends, and they do not replace the requests of other jobs. A direct request to the autoscaler would do that.

    Raises:
        InputError: Ray refuses such a task.
    """
    place = ray.remote(num_gpus=num_gpus, num_cpus=0 if num_gpus else 1)(_do_nothing)
    waiting = [place.remote() for _ in range(actors)]
    while not enough(nodes := nodes_up()):
        finished, waiting = ray.wait(waiting, num_returns=actors, timeout=1)
        try:
            ray.get(finished)
        except RayError as error:
            raise InputError(f"no node for an actor (--gpus-per-worker) can be had: {one_line(error)}") from None
        waiting += [place.remote() for _ in finished]  # the node where one ran may be gone again
    for task in waiting:
        ray.cancel(task)
    return nodes


def _do_nothing() -> None:
    """A task that only occupies its place."""
