"""How much each stage gets of the cluster as it is: how many actors, of what size, and how large blocks are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from ray.data import ActorPoolStrategy

from pipeline.cluster.connection import awaited, nodes_up, on_a_cluster
from pipeline.errors import InputError

BLOCK = 32 << 20  # bytes after which a task ends a block and begins another, at most
THREADS = 8  # of one actor; more cores serve better as more actors
BATCHES = 32  # in the window of an actor on a GPU, to fill them on mixed photos; a CPU takes images one by one anyway
TURNS = 4  # windows of each actor, at least: with fewer, some wait while others have their last one
SHARE = 8  # an actor's share of its node's object store holds so many windows: two wait, others are made and passed on
BLOCKS = 64  # of which a node's object store has room: with fewer, Ray Data's limits come too late
USED = 0.75  # of all cores: fewer and larger actors are better than to use more
LIGHT_CPUS = 0.25  # of a core, for fetch, decode, encode and write tasks on a machine without a GPU


@dataclass(frozen=True)
class Resources:
    """What the stages ask Ray for.

    Attributes:
        pool: how many segment actors, fixed or between bounds.
        num_gpus: of an actor.
        num_cpus: of an actor.
        threads: of torch in an actor.
        task_cpus: of each fetch, decode, encode and write task.
        batch_size: images of a forward pass, at most.
        window: images an actor takes at once, to fill batches from: those of equal shape share one.
        block: bytes of pixels after which a task ends a block and begins another.
    """

    pool: ActorPoolStrategy
    num_gpus: float
    num_cpus: float
    threads: int
    task_cpus: float
    batch_size: int
    window: int
    block: int = BLOCK

    def plain(self) -> dict[str, Any]:
        """For the record of a run; without an upper bound, the most actors are None."""
        most = self.pool.max_size
        return asdict(self) | {"pool": [self.pool.min_size, None if math.isinf(most) else most]}


def resources(
    workers: tuple[int, int] | None,
    gpus_per_worker: float | None,
    batch_size: int | None,
    say: Callable[[str], None],
    images: int,
    image_bytes: int,
) -> Resources:
    """Sizes the actor pool to the cluster as it is now.

    Args:
        workers: (min, max) actors; None: as many as fit.
        gpus_per_worker: GPUs of an actor, or a fraction of one, on one node; 0: actors compute on CPUs. None: one where
            there are any, else none; a cluster where no node is up yet is asked for one with a GPU.
        batch_size: images of a forward pass, at most; None: 16 on a GPU, 8 without.
        say: told what is waited for.
        images: of the job.
        image_bytes: of an image as it reaches an actor.

    Raises:
        InputError: this machine has fewer GPUs than that, and is no cluster.
    """
    nodes = _nodes(gpus_per_worker, workers[0] if workers else 1, say)
    if gpus_per_worker == 0 or (gpus_per_worker is None and not _fit(nodes, 1)):
        sized = on_cpus(workers, _cores(nodes), batch_size or 8)
        room = _room(nodes, lambda n: min(int(n.get("CPU", 0) / sized.num_cpus), int(sized.pool.max_size)), image_bytes)
        return replace(sized, window=_window(sized, sized.window, room), block=_block(nodes))
    gpus_per_worker = gpus_per_worker or 1
    fit = _fit(nodes, gpus_per_worker)
    most = None if on_a_cluster() else fit  # where nodes are added, actors are too: Ray Data counts the GPUs there are
    sized = on_gpus(workers or (1, most), gpus_per_worker, batch_size or 16, None if workers else fit)
    turn = images // (TURNS * (workers[1] if workers else fit))
    room = _room(nodes, lambda n: _fit([n], gpus_per_worker), image_bytes)
    return replace(sized, window=_window(sized, turn, room), block=_block(nodes))


def actors_on(gpus: list[float], gpus_per_worker: float) -> int:
    """Actors that find their GPUs, each on one node, and a fraction on one GPU.

    Args:
        gpus: of each node.
    """
    if gpus_per_worker < 1:
        return sum(int(n) * int(1 / gpus_per_worker) for n in gpus)
    return sum(int(n // gpus_per_worker) for n in gpus)


def _fit(nodes: list[dict[str, float]], gpus_per_worker: float) -> int:
    return actors_on([n.get("GPU", 0) for n in nodes], gpus_per_worker)


def _nodes(gpus_per_worker: float | None, actors: int, say: Callable[[str], None]) -> list[dict[str, float]]:
    """The nodes, of which one at least holds an actor: a cluster without such a node is waited for.

    Before that there is nothing to do, as decoded images would soon fill the nodes, and what an actor takes at once
    depends on the memory of its node.

    Args:
        actors: that a cluster is asked for meanwhile.

    Raises:
        InputError: this machine has no such GPUs, and is no cluster; or the cluster refuses them.
    """
    nodes, gpus = nodes_up(), 1 if gpus_per_worker is None else gpus_per_worker
    if _holds(nodes, gpus_per_worker):
        return nodes
    most = max((n.get("GPU", 0) for n in nodes), default=0)
    if on_a_cluster():
        what = f"{gpus:g} GPU{'s' if gpus > 1 else ''}" if gpus else "a CPU"
        up = f"the largest that is up has {most:g}" if most and gpus else "none is up"
        say(f"waiting for a node that has {what} for an actor (--gpus-per-worker); {up}")
        return awaited(lambda nodes: _holds(nodes, gpus_per_worker), actors, gpus, 0 if gpus else 1)
    if most:
        raise InputError(f"--gpus-per-worker {gpus:g}: this machine has {most:g}; give no more")
    raise InputError(f"--gpus-per-worker {gpus:g}: this machine has no GPU; without it the CPU computes")


def _holds(nodes: list[dict[str, float]], gpus_per_worker: float | None) -> bool:
    """Whether some node has the GPUs of an actor, or a core for it where it may compute on CPUs."""
    on_gpus_only, on_gpus_too = bool(gpus_per_worker), gpus_per_worker != 0
    return bool(on_gpus_too and _fit(nodes, gpus_per_worker or 1)) or bool(not on_gpus_only and _cores(nodes))


def _cores(nodes: list[dict[str, float]]) -> list[int]:
    """Of each node that has any."""
    return [int(n["CPU"]) for n in nodes if n.get("CPU", 0) >= 1]


def _room(nodes: list[dict[str, float]], actors: Callable[[dict[str, float]], int], image_bytes: int) -> int:
    """Images for which an actor's share of its node's object store has room, where that is least.

    Args:
        actors: how many a node holds.
    """
    shares = [n["object_store_memory"] / held for n in nodes if (held := actors(n))]
    return int(min(shares) / image_bytes)


def _window(sized: Resources, turn: int, room: int) -> int:
    """Images an actor takes at once: no more than memory allows, nor than leave the others work, but for a batch.

    Args:
        turn: images that leave something for each actor to do.
        room: images for which its share of the object store has room.
    """
    return max(1, min(sized.window, max(turn, sized.batch_size), room // SHARE))


def _block(nodes: list[dict[str, float]]) -> int:
    """Bytes of a block: each task has some on the way, and the object store of each node that works holds them all."""
    stores = [n["object_store_memory"] for n in nodes if n.get("CPU") or n.get("GPU")]
    return min([BLOCK, *(int(store / BLOCKS) for store in stores)])


def on_gpus(
    workers: tuple[int, int | None], gpus_per_worker: float, batch_size: int, initial: int | None = None
) -> Resources:
    """An actor for each `gpus_per_worker` GPUs, claiming no core: that may be the last its feeding tasks have.

    Args:
        initial: actors at the start, before any work queues up; None: the fewest.
    """
    return Resources(_pool(*workers, initial), gpus_per_worker, 0, 4, 1, batch_size, BATCHES * batch_size)


def on_cpus(workers: tuple[int, int] | None, cores: list[int], batch_size: int) -> Resources:
    """Actors of equal size: at most eight cores each, or so many as are asked for, as large as they can be then.

    What they claim of Ray leaves part of a core free beside the actors of each node, so that the light tasks can always
    run. A node that is too small for an actor has light tasks alone.

    Args:
        cores: of each node that has any.
    """
    if workers is None:
        threads = _threads(cores)
        workers = (sum(n // threads for n in cores),) * 2
    else:
        threads = max((t for t in range(1, max(cores) + 1) if sum(n // t for n in cores) >= workers[1]), default=1)
    return Resources(_pool(*workers), 0, _claim(cores, workers[1]), threads, LIGHT_CPUS, batch_size, batch_size)


def _threads(cores: list[int]) -> int:
    """Of an actor: the largest equal part of some node, of at most eight cores, that leaves few of all cores over."""
    used = {t: sum(n // t * t for n in cores) for t in {n // -(-n // THREADS) for n in cores}}
    few = [t for t in used if used[t] >= USED * sum(cores)]
    return max(few) if few else max(used, key=lambda t: used[t])


def _claim(cores: list[int], actors: int) -> float:
    """The most cores that so many actors can each claim while half a one stays free on each node.

    Ray takes fractions of less than one core only; they are counted in thousandths here.
    """
    for claim in (*range(1000 * max(cores), 999, -1000), *range(999, 0, -1)):
        if sum((1000 * n - 500) // claim for n in cores) >= actors:
            return claim / 1000
    return 0.001


def _pool(low: int, high: int | None, initial: int | None = None) -> ActorPoolStrategy:
    if low == high:
        return ActorPoolStrategy(size=low)
    return ActorPoolStrategy(min_size=low, max_size=high, initial_size=initial)
