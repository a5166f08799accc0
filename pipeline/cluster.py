"""Where a job runs: the cluster it was submitted to, or this machine; and how much each actor gets."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
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


def resources(workers: tuple[int, int] | None, gpus_per_worker: float | None, batch_size: int | None) -> Resources:
    """Sizes the actor pool to the cluster as it is now.

    Args:
        workers: (min, max) actors; None: as many as fit.
        gpus_per_worker: GPUs of an actor, or a fraction of one; a cluster that has none now is waited for, since it
            may start some. None: one, where there are any or no worker has come yet; else actors compute on CPUs.
        batch_size: images an actor takes at once; None: 16 on a GPU, 8 without.

    Raises:
        InputError: this machine has no GPU, the cluster fewer than that, or Ray cannot split them so.
    """
    asked, gpus_per_worker = gpus_per_worker is not None, gpus_per_worker or 1.0
    gpus = ray.cluster_resources().get("GPU", 0)
    cores = [int(n["Resources"].get("CPU", 0)) for n in ray.nodes() if n["Alive"]]
    cores = [n for n in cores if n]
    if gpus_per_worker > 1 and gpus_per_worker != int(gpus_per_worker):
        raise InputError(f"--gpus-per-worker {gpus_per_worker}: more than one GPU must be a whole number")
    if 0 < gpus < gpus_per_worker:
        raise InputError(f"--gpus-per-worker {gpus_per_worker}: the cluster has {gpus:g} GPUs")
    if asked and not gpus and not _on_a_cluster():
        raise InputError(f"--gpus-per-worker {gpus_per_worker:g}: this machine has no GPU; without it the CPU computes")
    if gpus or asked or not cores:  # a cluster that scales from nothing has no worker yet: GPU workers will come
        fit = max(1, int(gpus / gpus_per_worker)) if gpus else None
        sized = on_gpus(workers or (1, fit), gpus_per_worker, batch_size or 16, None if workers else fit)
        return replace(sized, window=min([sized.window, *_windows(gpus_per_worker, sized.batch_size)]))
    return on_cpus(workers, cores, batch_size or 8)


def _windows(gpus_per_worker: float, batch_size: int) -> list[int]:
    """Images for which the object store of each node with a GPU has room: a batch at least."""
    nodes = [n["Resources"] for n in ray.nodes() if n["Alive"] and n["Resources"].get("GPU")]
    shares = [n["object_store_memory"] / max(1, int(n["GPU"] / gpus_per_worker)) / SHARE for n in nodes]
    return [max(batch_size, int(share / IMAGE)) for share in shares]


def on_gpus(
    workers: tuple[int, int | None], gpus_per_worker: float, batch_size: int, initial: int | None = None
) -> Resources:
    """An actor for each `gpus_per_worker` GPUs, claiming no core: that may be the last its feeding tasks have.

    Args:
        initial: actors at the start, before any work queues up; None: the fewest.
    """
    return Resources(_pool(*workers, initial), gpus_per_worker, 0, 4, 1, batch_size, BATCHES * batch_size)


def on_cpus(workers: tuple[int, int] | None, cores: list[int], batch_size: int) -> Resources:
    """Actors of whole cores, at most eight, which compute on all cores of their node.

    What they claim of Ray leaves a part of each node free, so that the light tasks can always run.

    Args:
        cores: of each node that has any.
    """
    low, high = workers or (sum(-(-n // THREADS) for n in cores),) * 2
    node, side_by_side = min(cores), -(-high // len(cores))
    whole = (node - 1) // side_by_side
    claim = float(whole) if whole else round((node - 0.5) / side_by_side - 0.005, 2)
    return Resources(_pool(low, high), 0, claim, max(1, node // side_by_side), LIGHT_CPUS, batch_size, batch_size)


def _pool(low: int, high: int | None, initial: int | None = None) -> ActorPoolStrategy:
    if low == high:
        return ActorPoolStrategy(size=low)
    return ActorPoolStrategy(min_size=low, max_size=high, initial_size=initial)
