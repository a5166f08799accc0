"""When a request to a store is tried again, and for how long."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pipeline.storage.store_errors import error_code, explain

T = TypeVar("T")
RETRY_SECONDS = 180.0  # seconds for which a store may be out of reach before the job stops
# S3's word that it is we who are refused, or the bucket is gone: no fault of one image.
REFUSALS = {
    "ExpiredToken",
    "InvalidToken",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "RequestTimeTooSkewed",
    "NoSuchBucket",
}


def with_retries(
    where: str, ask: Callable[[Sequence[T]], list[Any]], wanted: Sequence[T], retry_seconds: float
) -> list[Any]:
    """What `ask` gives for each thing wanted; asked again, with growing pauses, where it may help.

    Raises:
        InputError: after `retry_seconds` seconds, or at once where it is we who are refused.
    """
    results: list[Any] = [None] * len(wanted)
    left, pause, deadline = list(range(len(wanted))), 1.0, time.monotonic() + retry_seconds
    while left:
        for i, value in zip(left, ask([wanted[i] for i in left]), strict=True):
            results[i] = value
            if isinstance(value, Exception) and (error_code(value) or error_code(value.__cause__)) in REFUSALS:
                raise explain(where, value)
        left = [i for i in left if isinstance(results[i], Exception) and not _final(results[i])]
        if left and time.monotonic() + pause > deadline:
            raise explain(where, results[left[0]])
        if left:
            time.sleep(pause)
            pause = min(pause * 2, 20.0)
    return results


def catch_error(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:  # every store has errors of its own
        return error


def _final(error: Exception) -> bool:
    """Whether asking again cannot help: the object is missing, forbidden, a folder, or shorter than it was."""
    if 400 <= getattr(error, "status", 0) < 500:  # a web server's word
        return getattr(error, "status", 0) not in (408, 429)
    wrong = FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError | ValueError
    return isinstance(error, wrong) or getattr(error, "errno", None) == errno.EINVAL
