"""A local S3 server next to another one, in an environment that holds the keys of the other."""

from __future__ import annotations

import pytest

from jobs.sample.s3_server import S3Server


@pytest.mark.slow
def test_two_servers_run_side_by_side_with_different_keys(s3_server: S3Server) -> None:
    s3_server.filesystem().mkdir("first-of-two")  # its keys are in the environment of this process
    with S3Server() as second:
        second.filesystem().mkdir("second-of-two")
        assert second.filesystem().ls("") == ["second-of-two"]
        buckets = s3_server.filesystem().ls("")
        assert "first-of-two" in buckets
        assert "second-of-two" not in buckets
    s3_server.filesystem().rm("first-of-two", recursive=True)
