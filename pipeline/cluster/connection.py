"""Connects a job to Ray: to the cluster it was submitted to, or to a new one on this machine."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray._private.services import canonicalize_bootstrap_address
from ray.data import DataContext

from pipeline.cluster.nodes import on_a_cluster
from pipeline.errors import InputError
from pipeline.storage import one_line

START_ATTEMPTS = 3  # on a busy machine a part of Ray may start too late for the part that waits for it
ATTEMPTS, ATTEMPT_SECONDS = 5, 3.0  # to reach a head node; one that restarts is away for some seconds


class Connection:
    """A context manager that connects to Ray at the first use, and disconnects on exit if it connected.

    Ray ends with it if it was started here. After the exit Ray prints nothing more, not even what workers printed.
    """

    def __init__(self) -> None:
        self._connected_here = False

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connected_here:
            ray.shutdown()

    def context(self) -> DataContext:
        """Connects if necessary; returns Ray Data's settings."""
        if not ray.is_initialized():
            logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # Ray's log folder has it too
            if on_a_cluster():
                _join()
            else:
                _start_here()
            self._connected_here = True
        context = DataContext.get_current()
        context.enable_progress_bars = False  # the command has its own display
        context.enable_operator_progress_bars = False
        context.print_on_execution_start = False
        context.execution_options.verbose_progress = False
        return context


def _join() -> None:
    """Connects to the cluster that the environment names.

    Raises:
        InputError: no cluster answers, or a driver cannot join at this kind of address.
    """
    named = os.environ.get("RAY_ADDRESS", "")
    if "://" in named:
        raise InputError(
            f"RAY_ADDRESS={named!r}: Ray's client (ray://) and dashboard (http://) cannot be joined; submit the job "
            "with `ray job submit --address`, or give HOST:PORT of the cluster's head"
        )
    try:
        if address := canonicalize_bootstrap_address("auto"):
            _check_reachable(address)
        ray.init(address="auto", logging_level=logging.WARNING)
    except Exception as error:  # Ray raises half a dozen kinds
        raise InputError(
            f"RAY_ADDRESS={named!r}: no Ray cluster answers there ({error}); unset it to run here"
        ) from None


def _check_reachable(address: str) -> None:
    """Raises OSError if nothing listens at host:port. Ray itself would try for a quarter of an hour."""
    host, _, port = address.rpartition(":")
    for left in reversed(range(ATTEMPTS)):
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=ATTEMPT_SECONDS).close()
            return
        except OSError:
            if not left:
                raise
            time.sleep(1)


def _start_here() -> None:
    """Starts Ray on this machine, without its dashboard. Ray's ports are protected by a token.

    Raises:
        InputError: Ray did not start, in several attempts.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    for left in reversed(range(START_ATTEMPTS)):
        try:
            with _without_stderr():
                ray.init(
                    "local",  # never another cluster that runs on this machine
                    include_dashboard=False,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                )
            return
        except Exception as error:  # a plain Exception if a part of Ray takes longer than Ray waits
            ray.shutdown()
            if not left:
                reason = one_line(error)
                raise InputError(
                    f"Ray did not start on this machine ({reason}); if it is busy, start the same command again"
                ) from None


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Hides stderr, where Ray's core announces its log level whatever that level is. Failures are raised anyway."""
    sys.stderr.flush()
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)
