"""The retry policy: which errors of a store are retried, with which pauses, and for how long.

- An error of one object (not found, access denied, a directory, shorter than expected) is not retried. It is returned
  in place of that object's result.
- A refusal that every object would meet (expired credentials, a deleted bucket) stops the job at once.
- Every other error (timeouts, throttling, 5xx) is retried with growing pauses. If the store has not recovered after
  `RETRY_SECONDS`, the job stops. The same command continues it later.

fsspec and botocore retry too, within one request and for a few seconds (see `filesystem.S3_TIMEOUTS`).
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pipeline.storage.store_errors import error_code, explain

T = TypeVar("T")
RETRY_SECONDS = 180.0  # how long a store may be unreachable before the job stops
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 20.0  # seconds; each pause is twice the one before
REFUSAL_CODES = {  # S3's codes for errors that concern every object
    "ExpiredToken",
    "InvalidToken",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "RequestTimeTooSkewed",
    "NoSuchBucket",
}
FINAL_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ValueError)
RETRIED_HTTP_STATUS = (408, 429)  # request timeout, too many requests; every other 4xx is final


def with_retries(
    where: str, request: Callable[[Sequence[T]], list[Any]], items: Sequence[T], retry_seconds: float
) -> list[Any]:
    """Requests every item, and requests again the items that failed with an error worth a retry.

    Args:
        where: the address for the error message.
        request: gets items, returns a result or an exception for each.
        items: what to request.
        retry_seconds: how long to retry.

    Returns:
        For each item its result, or the exception that is final for it.

    Raises:
        InputError: errors remain after `retry_seconds`, or the store refuses the job itself.
    """
    results: list[Any] = [None] * len(items)
    left, pause, deadline = list(range(len(items))), FIRST_PAUSE, time.monotonic() + retry_seconds
    while left:
        for i, result in zip(left, request([items[i] for i in left]), strict=True):
            results[i] = result
            if isinstance(result, Exception) and (error_code(result) or error_code(result.__cause__)) in REFUSAL_CODES:
                raise explain(where, result)
        left = [i for i in left if isinstance(results[i], Exception) and not _is_final(results[i])]
        if left and time.monotonic() + pause > deadline:
            raise explain(where, results[left[0]])
        if left:
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
    return results


def catch_error(call: Callable[[], Any]) -> Any:
    """Returns the result of a call, or the exception that it raised, in the form `with_retries` expects."""
    try:
        return call()
    except Exception as error:  # each store raises errors of different classes
        return error


def _is_final(error: Exception) -> bool:
    """Whether another attempt cannot help."""
    status = getattr(error, "status", 0)  # of an HTTP server
    if 400 <= status < 500:
        return status not in RETRIED_HTTP_STATUS
    return (
        isinstance(error, FINAL_ERRORS) or getattr(error, "errno", None) == errno.EINVAL
    )  # a range outside the object
