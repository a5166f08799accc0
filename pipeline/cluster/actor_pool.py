"""How many segment actors there are, and what each of them gets: GPUs, cores, threads."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from ray.data import ActorPoolStrategy

from pipeline.cluster.windows import MAX_BLOCK_BYTES

MAX_THREADS = 8  # of an actor on CPUs; more cores do more as more actors
MIN_CORES_USED = 0.75  # of all cores; beyond that, fewer and larger actors are better than using more cores
TASK_CPUS = 0.25  # of a core, for each fetch, decode, encode and write task on a machine without a GPU
BATCHES_PER_WINDOW = 32  # on a GPU, so that batches of mixed photos fill; a CPU takes the images of a batch one by one


@dataclass(frozen=True)
class Resources:
    """What the stages ask Ray for.

    Attributes:
        pool: how many segment actors: a fixed number, or bounds.
        num_gpus: of an actor.
        num_cpus: of an actor.
        threads: of PyTorch in an actor.
        task_cpus: of each fetch, decode, encode and write task.
        batch_size: images in a forward pass, at most.
        window: images that an actor takes at once. Images of equal shape in a window share a batch.
        block: bytes of pixels after which a task ends a block and starts the next.
    """

    pool: ActorPoolStrategy
    num_gpus: float
    num_cpus: float
    threads: int
    task_cpus: float
    batch_size: int
    window: int
    block: int = MAX_BLOCK_BYTES

    @property
    def device(self) -> str:
        """Of an actor, as `model.load_model` takes it. On one machine Ray does not hide GPUs from CPU actors."""
        return "auto" if self.num_gpus else "cpu"

    def plain(self) -> dict[str, Any]:
        """The resources as JSON, for the record of a run. No upper bound of the pool is None."""
        most = self.pool.max_size
        return asdict(self) | {"pool": [self.pool.min_size, None if math.isinf(most) else most]}


def on_gpus(
    workers: tuple[int, int | None], gpus_per_worker: float, batch_size: int, initial: int | None = None
) -> Resources:
    """Sizes actors that compute on GPUs. They claim no core, because the tasks that feed them may need the last one.

    Args:
        workers: (min, max) actors; no max: as many as the cluster grows to.
        initial: actors at the start, before work queues up; None: the minimum.
    """
    window = BATCHES_PER_WINDOW * batch_size
    return Resources(_pool(*workers, initial), gpus_per_worker, 0, 4, 1, batch_size, window)


def on_cpus(workers: tuple[int, int] | None, cores: list[int], batch_size: int) -> Resources:
    """Sizes actors that compute on CPUs. All have the same size.

    Without `workers` each has at most eight cores. With `workers` each is as large as that many can be. Their claims
    leave part of a core free on each node, so that the light tasks can always run. A node that is too small for an
    actor runs light tasks only.

    Args:
        workers: (min, max) actors; None: as many as fit.
        cores: of each node that has any.
    """
    if workers is None:
        threads = _threads(cores)
        workers = (sum(n // threads for n in cores),) * 2
    else:
        threads = max((t for t in range(1, max(cores) + 1) if sum(n // t for n in cores) >= workers[1]), default=1)
    return Resources(_pool(*workers), 0, _claim(cores, workers[1]), threads, TASK_CPUS, batch_size, batch_size)


def _threads(cores: list[int]) -> int:
    """Threads of an actor: the largest equal part of some node, at most eight cores, that uses most of all cores."""
    used = {t: sum(n // t * t for n in cores) for t in {n // -(-n // MAX_THREADS) for n in cores}}
    enough = [t for t in used if used[t] >= MIN_CORES_USED * sum(cores)]
    return max(enough) if enough else max(used, key=lambda t: used[t])


def _claim(cores: list[int], actors: int) -> float:
    """The most cores that each of these actors can claim while half a core stays free on each node.

    Ray accepts fractions below one core only. The search counts in thousandths of a core.
    """
    for claim in (*range(1000 * max(cores), 999, -1000), *range(999, 0, -1)):
        if sum((1000 * n - 500) // claim for n in cores) >= actors:
            return claim / 1000
    return 0.001


def _pool(low: int, high: int | None, initial: int | None = None) -> ActorPoolStrategy:
    if low == high:
        return ActorPoolStrategy(size=low)
    return ActorPoolStrategy(min_size=low, max_size=high, initial_size=initial)
