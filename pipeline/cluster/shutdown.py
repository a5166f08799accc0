"""Ending a running job from outside its main thread, and on the signal with which schedulers end one."""

from __future__ import annotations

import _thread
import signal
import threading
from types import FrameType, TracebackType


class ShutdownHandler:
    """Turns SIGTERM and `stop` into a KeyboardInterrupt in the main thread, where a job waits for Ray.

    A context manager; on leaving it, an interrupt that `stop` caused becomes the error that it was given.
    """

    def __init__(self) -> None:
        self.reason: Exception | None = None
        self._main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> ShutdownHandler:
        if self._main:
            self._before = signal.getsignal(signal.SIGTERM)
            self.arm()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._main:
            signal.signal(signal.SIGTERM, self._before)
        if self.reason is not None and (error is None or isinstance(error, KeyboardInterrupt)):
            raise self.reason from None

    def arm(self) -> None:
        """Takes the signal, again after Ray has started: it takes it for itself."""
        if self._main:
            signal.signal(signal.SIGTERM, _interrupt)

    def stop(self, reason: Exception) -> None:
        """Ends the job with an error; from any thread. The first reason counts."""
        if self.reason is None:
            self.reason = reason
            if self._main:
                _thread.interrupt_main(signal.SIGTERM)  # SIGINT is ignored by what a shell started in the background


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
