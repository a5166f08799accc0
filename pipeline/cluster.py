"""Where a job runs: the cluster it was submitted to, or this machine; and how much each actor gets."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import ray
from ray._private.services import canonicalize_bootstrap_address
from ray.data import ActorPoolStrategy, DataContext

from pipeline.decode import BLOCK
from pipeline.errors import InputError

THREADS = 8  # of one actor; more cores serve better as more actors
BATCHES = 4  # in the window of an actor on a GPU; a CPU takes the images of a batch one by one anyway
IMAGE = 800 * 1333 * 3  # bytes of a decoded image at the size that networks are published for
SHARE = 8  # an actor's share of its node's object store holds so many windows: two wait, others are made and passed on
KNOCKS, KNOCK_SECONDS = 5, 3.0  # a head node that restarts is away for some seconds
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
    """

    pool: ActorPoolStrategy
    num_gpus: float
    num_cpus: float
    threads: int
    task_cpus: float
    batch_size: int
    window: int


class Connection:
    """Ray for as long as it is needed: connected at the first use, not before. A context manager."""

    def __init__(self) -> None:
        self._started_here = False

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        if self._started_here:
            ray.shutdown()

    def context(self) -> DataContext:
        """Ray Data's settings, on the cluster that the job was submitted to, else on this machine."""
        if not ray.is_initialized():
            logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it says is also in Ray's log folder
            if _on_a_cluster():
                _join()
            else:
                _start_here()
                self._started_here = True
        context = DataContext.get_current()
        context.enable_progress_bars = False  # a job has one display, and it is ours
        context.enable_operator_progress_bars = False
        context.print_on_execution_start = False
        context.execution_options.verbose_progress = False
        context.target_max_block_size = BLOCK
        return context


def _on_a_cluster() -> bool:
    """Whether the environment names a cluster, as it does within `ray job submit`."""
    return bool(os.environ.get("RAY_ADDRESS") or os.environ.get("RAY_JOB_ID"))


def _join() -> None:
    """Connects to the cluster that the environment names.

    Raises:
        InputError: none is there, or the address is not one that a driver can join.
    """
    named = os.environ.get("RAY_ADDRESS", "")
    if "://" in named:
        raise InputError(
            f"RAY_ADDRESS={named!r}: Ray's client (ray://) and dashboard (http://) cannot be joined; submit the job "
            "with `ray job submit --address`, or give HOST:PORT of the cluster's head"
        )
    try:
        if address := canonicalize_bootstrap_address("auto"):
            _knock(address)
        ray.init(address="auto", logging_level=logging.WARNING)
    except Exception as error:  # Ray raises half a dozen kinds
        raise InputError(
            f"RAY_ADDRESS={named!r}: no Ray cluster answers there ({error}); unset it to run here"
        ) from None


def _knock(address: str) -> None:
    """Raises OSError unless something listens at host:port; Ray itself would try for a quarter of an hour."""
    host, _, port = address.rpartition(":")
    for left in reversed(range(KNOCKS)):
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_SECONDS).close()
            return
        except OSError:
            if not left:
                raise
            time.sleep(1)


def _start_here() -> None:
    """Starts Ray on this machine, without its dashboard; Ray asks for a token wherever it listens."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with _stderr_away():
        ray.init(
            "local",  # whatever other cluster this machine may run
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )


@contextmanager
def _stderr_away() -> Iterator[None]:
    """Ray's core announces its log level on the terminal, whatever that level is; failures are raised."""
    sys.stderr.flush()
    kept, away = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(away, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(away)


def resources(
    workers: tuple[int, int] | None,
    gpus_per_worker: float | None,
    batch_size: int | None,
    say: Callable[[str], None],
) -> Resources:
    """Sizes the actor pool to the cluster as it is now.

    Args:
        workers: (min, max) actors; None: as many as fit.
        gpus_per_worker: GPUs of an actor, or a fraction of one, on one node. A cluster without such a node is waited
            for, since it may start one. None: one, where there are any or no worker has come yet; else actors compute
            on CPUs.
        batch_size: images an actor takes at once; None: 16 on a GPU, 8 without.
        say: told what is waited for.

    Raises:
        InputError: this machine has fewer GPUs than that, or Ray cannot split them so.
    """
    asked, gpus_per_worker = gpus_per_worker is not None, gpus_per_worker or 1.0
    nodes = [n["Resources"] for n in ray.nodes() if n["Alive"]]
    gpus = [n["GPU"] for n in nodes if n.get("GPU")]
    cores = [int(n["CPU"]) for n in nodes if n.get("CPU", 0) >= 1]
    if gpus_per_worker > 1 and gpus_per_worker != int(gpus_per_worker):
        raise InputError(f"--gpus-per-worker {gpus_per_worker}: more than one GPU must be a whole number")
    if not gpus and not asked and cores:
        return on_cpus(workers, cores, batch_size or 8)
    # A cluster that scales from nothing has no worker yet: GPU workers will come.
    fit = actors_on(gpus, gpus_per_worker)
    if not fit:
        _wait_or_refuse(gpus, gpus_per_worker, say)
    most = None if _on_a_cluster() else fit  # where nodes are added, actors are too: Ray Data counts the GPUs there are
    sized = on_gpus(workers or (1, most), gpus_per_worker, batch_size or 16, None if workers else max(1, fit))
    return replace(sized, window=min([sized.window, *_windows(nodes, gpus_per_worker, sized.batch_size)]))


def actors_on(gpus: list[float], gpus_per_worker: float) -> int:
    """Actors that find their GPUs, each on one node, and a fraction on one GPU.

    Args:
        gpus: of each node.
    """
    if gpus_per_worker < 1:
        return sum(int(n) * int(1 / gpus_per_worker) for n in gpus)
    return sum(int(n // gpus_per_worker) for n in gpus)


def _wait_or_refuse(gpus: list[float], gpus_per_worker: float, say: Callable[[str], None]) -> None:
    """Says what a cluster is waited for where no node holds an actor; refuses it on one machine."""
    if _on_a_cluster():
        most = f"the largest that is up has {max(gpus):g}" if gpus else "none with a GPU is up"
        noun = "GPU" if gpus_per_worker <= 1 else "GPUs"
        say(f"waiting for a node that has {gpus_per_worker:g} {noun} for an actor (--gpus-per-worker); {most}")
    elif gpus:
        raise InputError(f"--gpus-per-worker {gpus_per_worker:g}: this machine has {max(gpus):g}; give no more")
    else:
        raise InputError(f"--gpus-per-worker {gpus_per_worker:g}: this machine has no GPU; without it the CPU computes")


def _windows(nodes: list[dict[str, float]], gpus_per_worker: float, batch_size: int) -> list[int]:
    """Images for which the object store of each node that holds actors on GPUs has room: a batch at least."""
    held = [(n["object_store_memory"], actors_on([n.get("GPU", 0)], gpus_per_worker)) for n in nodes]
    return [max(batch_size, int(store / actors / SHARE / IMAGE)) for store, actors in held if actors]


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
