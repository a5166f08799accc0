"""The retry policy: what is final, what is tried again, what stops the job."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from botocore.exceptions import ClientError

from pipeline.errors import InputError
from pipeline.storage.retries import LONGEST_PAUSE, RETRY_SECONDS, with_retries


class HttpError(Exception):
    """An HTTP error in aiohttp's form."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


class Clock:
    """A clock that only moves while the code under test sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("pipeline.storage.retries.time", clock)
    return clock


def answers(script: dict[str, list[Any]]) -> tuple[Callable[[Sequence[str]], list[Any]], list[list[str]]]:
    """A request that gives each item its next scripted answer (the last one for ever), and the items of each call."""
    calls: list[list[str]] = []

    def request(items: Sequence[str]) -> list[Any]:
        calls.append(list(items))
        return [script[i].pop(0) if len(script[i]) > 1 else script[i][0] for i in items]

    return request, calls


def test_only_what_failed_is_requested_again(clock: Clock) -> None:
    request, calls = answers({"a": [b"1"], "b": [TimeoutError(), HttpError(503), b"2"], "c": [HttpError(429), b"3"]})
    assert with_retries("s3://b", request, ["a", "b", "c"], RETRY_SECONDS) == [b"1", b"2", b"3"]
    assert calls == [["a", "b", "c"], ["b", "c"], ["b"]]
    assert clock.pauses == [1.0, 2.0]


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("x"),
        PermissionError("x"),
        IsADirectoryError("x"),
        NotADirectoryError("x"),
        ValueError("shorter than it was"),
        OSError(errno.EINVAL, "range"),
        HttpError(404),
        HttpError(416),
    ],
)
def test_an_error_of_one_object_is_final(error: Exception, clock: Clock) -> None:
    request, calls = answers({"a": [error], "b": [b"2"]})
    assert with_retries("s3://b", request, ["a", "b"], RETRY_SECONDS) == [error, b"2"]
    assert len(calls) == 1
    assert not clock.pauses


@pytest.mark.parametrize("error", [ConnectionResetError("x"), TimeoutError(), HttpError(500), HttpError(408)])
def test_a_store_that_does_not_recover_stops_the_job(error: Exception, clock: Clock) -> None:
    request, _ = answers({"a": [error]})
    with pytest.raises(InputError, match=r"^s3://b: cannot be "):
        with_retries("s3://b", request, ["a"], RETRY_SECONDS)
    assert clock.pauses[:6] == [1.0, 2.0, 4.0, 8.0, 16.0, 20.0]
    assert max(clock.pauses) == LONGEST_PAUSE
    assert RETRY_SECONDS - LONGEST_PAUSE < clock.now <= RETRY_SECONDS


@pytest.mark.parametrize("code", ["ExpiredToken", "NoSuchBucket", "SignatureDoesNotMatch"])
def test_a_refusal_of_the_job_stops_it_at_once(code: str, clock: Clock) -> None:
    refusal = ClientError({"Error": {"Code": code, "Message": "no"}}, "GetObject")
    translated = PermissionError("no")  # as s3fs raises it
    translated.__cause__ = refusal
    for error in (refusal, translated):
        request, calls = answers({"a": [b"1"], "b": [error]})
        with pytest.raises(InputError, match=r"^s3://b: "):
            with_retries("s3://b", request, ["a", "b"], RETRY_SECONDS)
        assert len(calls) == 1
    assert not clock.pauses
