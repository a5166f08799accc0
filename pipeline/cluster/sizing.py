"""Sizes a job to the cluster as it is now: the actor pool, its windows, and the blocks between stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from pipeline.cluster.actor_pool import Resources, on_cpus, on_gpus
from pipeline.cluster.nodes import Node, cores, gpu_actors, nodes_for_actors, on_a_cluster
from pipeline.cluster.windows import MIN_WINDOWS, block_size, images_in_store, window_size

GPU_BATCH_SIZE, CPU_BATCH_SIZE = 16, 8


@dataclass(frozen=True)
class PoolRequest:
    """What the user asks of the actor pool.

    Attributes:
        workers: (min, max) actors; None: as many as fit.
        gpus_per_worker: GPUs of an actor, on one node, or a fraction of one GPU. 0: actors compute on CPUs. None: one
            GPU if there is any, otherwise CPUs; a cluster where no node is up yet is asked for a GPU.
        batch_size: images in a forward pass, at most; None: 16 on a GPU, 8 on CPUs.
    """

    workers: tuple[int, int] | None = None
    gpus_per_worker: float | None = None
    batch_size: int | None = None


def resources(request: PoolRequest, images: int, image_bytes: int, report: Callable[[str], None]) -> Resources:
    """Sizes a job to the cluster as it is now.

    Args:
        images: of the job.
        image_bytes: of an image as it reaches an actor.
        report: receives a sentence if the job has to wait for a node.

    Raises:
        InputError: this machine is not part of a cluster and has fewer GPUs than requested.
    """
    nodes = nodes_for_actors(request.gpus_per_worker, request.workers[0] if request.workers else 1, report)
    if request.gpus_per_worker == 0 or (request.gpus_per_worker is None and not gpu_actors(nodes, 1)):
        return _on_cpus(request, nodes, image_bytes)
    return _on_gpus(request, nodes, images, image_bytes)


def _on_cpus(request: PoolRequest, nodes: list[Node], image_bytes: int) -> Resources:
    sized = on_cpus(request.workers, cores(nodes), request.batch_size or CPU_BATCH_SIZE)

    def actors_of(node: Node) -> int:
        return min(int(node.get("CPU", 0) / sized.num_cpus), int(sized.pool.max_size))

    stored = images_in_store(nodes, actors_of, image_bytes)
    window = window_size(sized.window, sized.batch_size, sized.window, stored)
    return replace(sized, window=window, block=block_size(nodes))


def _on_gpus(request: PoolRequest, nodes: list[Node], images: int, image_bytes: int) -> Resources:
    gpus = request.gpus_per_worker or 1
    fit = gpu_actors(nodes, gpus)
    most = None if on_a_cluster() else fit  # on a cluster that adds nodes, Ray Data adds actors: it counts the GPUs
    workers, initial = (request.workers, None) if request.workers else ((1, most), fit)
    sized = on_gpus(workers, gpus, request.batch_size or GPU_BATCH_SIZE, initial)
    images_per_turn = images // (MIN_WINDOWS * (request.workers[1] if request.workers else fit))
    stored = images_in_store(nodes, lambda node: gpu_actors([node], gpus), image_bytes)
    window = window_size(sized.window, sized.batch_size, images_per_turn, stored)
    return replace(sized, window=window, block=block_size(nodes))
