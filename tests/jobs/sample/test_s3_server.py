"""The local S3 server beside another, and under an environment that holds somebody's keys."""

from __future__ import annotations

import pytest

from jobs.sample.s3_server import S3Server


def test_two_servers_side_by_side_each_with_its_own_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    with S3Server() as first:
        for name, value in first.environment.items():
            monkeypatch.setenv(name, value)
        with S3Server() as second:
            first.filesystem().mkdir("first")
            second.filesystem().mkdir("second")
            assert first.filesystem().ls("") == ["first"]
            assert second.filesystem().ls("") == ["second"]
