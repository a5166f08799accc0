"""Errors of a store: one line with a remedy in words that fit the place, and no credentials."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from aiohttp import ClientConnectionError
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError

from pipeline.storage import explain, one_line, place, redacted

DENIED = ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "ListObjectsV2")
S3, GS, WEB, LOCAL = "s3://bucket/x", "gs://bucket/x", "https://host/x", "/data/x"


@pytest.mark.parametrize(
    ("where", "error", "expected"),
    [
        (S3, DENIED, "access denied: check the credentials (AWS_ACCESS_KEY_ID"),
        (S3, PermissionError("Forbidden"), "access denied: check the credentials (AWS_ACCESS_KEY_ID"),
        (GS, PermissionError("Forbidden"), "access denied: check the credentials and the access policy"),
        (WEB, PermissionError("Forbidden"), "access denied: check the address"),
        (LOCAL, PermissionError(errno.EACCES, "Permission denied"), "access denied: check the permissions of the file"),
        (S3, NoCredentialsError(), "no credentials: set AWS_ACCESS_KEY_ID"),
        (S3, FileNotFoundError("bucket"), "no such bucket, prefix or object"),
        (GS, FileNotFoundError("bucket"), "no such bucket, prefix or object"),
        (WEB, FileNotFoundError("https://host/x"), "the server has no such page"),
        (LOCAL, FileNotFoundError(errno.ENOENT, "No such file", "/data/x/y"), "no such file or folder"),
        (S3, ConnectionRefusedError("x"), "cannot be reached: check the network and AWS_ENDPOINT_URL_S3"),
        (S3, TimeoutError(), "cannot be reached: check the network and AWS_ENDPOINT_URL_S3"),
        (S3, EndpointConnectionError(endpoint_url="http://h"), "cannot be reached: check the network and AWS_"),
        (WEB, ClientConnectionError("Could not connect"), "cannot be reached: check the network ("),
        (LOCAL, OSError(errno.ENOSPC, "No space left on device"), "no space left: free some"),
        (LOCAL, OSError(errno.EROFS, "Read-only file system"), "cannot be written to: it is mounted read-only"),
        (S3, OSError("odd\nthing"), "cannot be used (OSError: odd thing)"),
    ],
)
def test_errors_become_a_line_with_a_remedy_that_fits_the_place(where: str, error: Exception, expected: str) -> None:
    text = str(explain(where, error))
    assert text.startswith(f"{where}: {expected}")
    assert "\n" not in text


def test_a_missing_local_file_is_named_once(tmp_path: Path) -> None:
    missing = place(tmp_path / "nope.json")
    with pytest.raises(FileNotFoundError) as caught:
        missing.fs.cat_file(missing.path)
    assert str(explain(missing.url, caught.value)) == f"{missing.url}: no such file or folder: check the spelling"


@pytest.mark.parametrize(
    "quoted",
    ["secret=AbC123/x", "'secret': 'AbC123/x'", "X-Amz-Signature=AbC123/x&a=b", "aws_secret_access_key = AbC123/x"],
)
def test_credentials_in_an_error_are_redacted(quoted: str) -> None:
    assert "AbC123" not in str(explain("s3://b", OSError(f"request failed: {quoted}")))


def test_user_names_passwords_and_queries_of_urls_are_redacted() -> None:
    assert redacted("https://me:AbC123@host/x.tar?sig=AbC123") == "https://host/x.tar"
    assert redacted("s3://me:AbC123@bucket/a?b") == "s3://bucket/a?b"  # a key may hold a question mark
    assert redacted("/data/a@b?c") == "/data/a@b?c"
    assert one_line(OSError("GET https://me:AbC123@host/x failed")) == "OSError: GET https://***@host/x failed"
    assert "AbC123" not in str(explain("https://me:AbC123@host/x?sig=AbC123", FileNotFoundError("x")))
