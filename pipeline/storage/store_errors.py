"""Errors of a store as one line that names the address and the remedy, without its credentials."""

from __future__ import annotations

import asyncio
import errno
import re

from pipeline.errors import InputError


def explain(where: str, error: BaseException) -> InputError:
    """A store's error as one line with a remedy."""
    text = one_line(error)
    code = error_code(error)
    if isinstance(error, PermissionError) or code in (
        "403",
        "AccessDenied",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
    ):
        remedy = "access denied: check the credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE, ...) and the bucket's policy"
    elif "NoCredentials" in text or "Unable to locate credentials" in text:
        remedy = (
            "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, on a cluster on its nodes"
        )
    elif isinstance(error, FileNotFoundError):
        remedy = "no such bucket, prefix or folder: check the spelling"
    elif isinstance(error, ConnectionError | TimeoutError | asyncio.TimeoutError) or re.search(
        "EndpointConnection|ConnectTimeout|ConnectionClosed|ClientConnector|Could not connect", text
    ):
        remedy = "cannot be reached: check the network and AWS_ENDPOINT_URL_S3"
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "no space left: make some and start the same command again"
    elif isinstance(error, OSError) and error.errno == errno.EROFS:
        remedy = "cannot be written to: it is mounted for reading alone"
    else:
        remedy = "cannot be used"
    return InputError(f"{redacted(where)}: {remedy} ({text})")


def error_code(error: BaseException | None) -> str:
    """The code with which an S3 store refused; empty for other errors."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def redacted(url: str) -> str:
    """A URL without a user name, password or query, which may be credentials; for records and errors."""
    if "://" not in url:
        return url
    protocol, rest = url.split("://", 1)
    rest = re.sub(r"^[^/@]*@", "", rest)
    return f"{protocol}://" + (rest.split("?", 1)[0] if protocol.startswith("http") else rest)


def one_line(error: BaseException) -> str:
    """An error's class and text on one line, without what it may quote of a credential."""
    text = re.sub(r"://[^/@\s]+@", "://***@", f"{type(error).__name__}: {error}")
    text = re.sub(
        r"(?i)((?:secret|token|sig|signature|password|access_?key\w*|credential)[\"'=: ]+)[^\s,;&)]+", r"\1***", text
    )
    return " ".join(text.split())[:400]
