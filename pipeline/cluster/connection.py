"""Where a job runs: the cluster it was submitted to, or this machine."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray
from ray._private.services import canonicalize_bootstrap_address
from ray.data import DataContext
from ray.exceptions import RayError

from pipeline.errors import InputError
from pipeline.storage import one_line

KNOCKS, KNOCK_SECONDS = 5, 3.0  # a head node that restarts is away for some seconds


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
            if on_a_cluster():
                _join()
            else:
                _start_here()
                self._started_here = True
        context = DataContext.get_current()
        context.enable_progress_bars = False  # a job has one display, and it is ours
        context.enable_operator_progress_bars = False
        context.print_on_execution_start = False
        context.execution_options.verbose_progress = False
        return context


def on_a_cluster() -> bool:
    """Whether the environment names a cluster, as it does within `ray job submit`."""
    return bool(os.environ.get("RAY_ADDRESS") or os.environ.get("RAY_JOB_ID"))


def nodes_up() -> list[dict[str, float]]:
    """The resources of each node that is alive."""
    return [n["Resources"] for n in ray.nodes() if n["Alive"]]


def awaited(
    enough: Callable[[list[dict[str, float]]], bool], actors: int, num_gpus: float, num_cpus: float
) -> list[dict[str, float]]:
    """The nodes as soon as they are enough, while Ray's autoscaler is asked for nodes on which so many actors fit.

    What asks are tasks that wait for their place, as actors would. They go with this driver however it ends, and do
    not replace what other jobs ask for, as a request to the autoscaler would.

    Raises:
        InputError: Ray refuses such a task.
    """
    place = ray.remote(num_gpus=num_gpus, num_cpus=num_cpus)(_here)
    waiting = [place.remote() for _ in range(actors)]
    while not enough(nodes := nodes_up()):
        here, waiting = ray.wait(waiting, num_returns=actors, timeout=1)
        try:
            ray.get(here)
        except RayError as error:
            raise InputError(f"no node for an actor (--gpus-per-worker) can be had: {one_line(error)}") from None
        waiting += [place.remote() for _ in here]  # where they ran may be gone again
    for task in waiting:
        ray.cancel(task)
    return nodes


def _here() -> None:
    """Where it runs there is a node with what it was given."""


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
    """Starts Ray on this machine, without its dashboard; Ray asks for a token wherever it listens.

    Raises:
        InputError: it did not start.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        with _stderr_away():
            ray.init(
                "local",  # whatever other cluster this machine may run
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
    except Exception as error:  # a plain one, where a part of Ray takes longer than Ray waits
        raise InputError(
            f"Ray did not start on this machine ({one_line(error)}); if it is busy, start the same command again"
        ) from None


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
