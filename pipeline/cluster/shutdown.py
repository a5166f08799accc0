"""Ends a running job from another thread, and on SIGTERM, which schedulers send to end a process."""

from __future__ import annotations

import _thread
import signal
import threading
from types import FrameType, TracebackType


class ShutdownHandler:
    """Turns SIGTERM and `stop` into a KeyboardInterrupt in the main thread, where a job waits for Ray.

    It is a context manager. When it exits, it replaces an interrupt that `stop` caused by the error given to `stop`.
    """

    def __init__(self) -> None:
        self.reason: Exception | None = None
        self._main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> ShutdownHandler:
        if self._main:
            self._previous = signal.getsignal(signal.SIGTERM)
            self.arm()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._main:
            signal.signal(signal.SIGTERM, self._previous)
        if self.reason is not None and (error is None or isinstance(error, KeyboardInterrupt)):
            raise self.reason from None

    def arm(self) -> None:
        """Installs the signal handler. Call it again after Ray has started, because Ray installs its own."""
        if self._main:
            signal.signal(signal.SIGTERM, _interrupt)

    def stop(self, reason: Exception) -> None:
        """Ends the job with an error, from any thread. Only the first reason counts."""
        if self.reason is None:
            self.reason = reason
            if self._main:
                _thread.interrupt_main(signal.SIGTERM)  # a shell's background processes ignore SIGINT


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
