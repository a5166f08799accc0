"""Errors of a store as one line: the address, what is wrong, what to do. Credentials are removed."""

from __future__ import annotations

import errno
import re

from pipeline.errors import InputError

STORE_KINDS = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az", "https": "http"}  # other names of a protocol
MAX_LINE = 400  # characters of an error's text
ACCESS_DENIED_CODES = ("403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch")
UNREACHABLE = re.compile("EndpointConnection|ConnectTimeout|ConnectionClosed|ClientConnector|Could not connect")

# What to say, by kind of store; None for every other kind.
MISSING: dict[str | None, str] = {
    "file": "no such file or folder: check the spelling",
    "http": "the server has no such page: check the address",
    None: "no such bucket, prefix or object: check the spelling",
}
ACCESS_DENIED: dict[str | None, str] = {
    "file": "access denied: check the permissions of the file and of its folder",
    "http": "access denied: check the address and its credentials",
    "s3": "access denied: check the credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE, ...) and the bucket's policy",
    None: "access denied: check the credentials and the access policy",
}
NO_CREDENTIALS = (
    "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; on a cluster, on every node"
)
CANNOT_BE_REACHED: dict[str | None, str] = {
    "s3": "cannot be reached: check the network and AWS_ENDPOINT_URL_S3",
    None: "cannot be reached: check the network",
}
NO_SPACE = "no space left: free some and run the same command again"
READ_ONLY = "cannot be written to: it is mounted read-only"


def store_kind(protocol: str) -> str:
    """Returns one name for all protocols of the same kind of store: `s3` for `s3a`, `http` for `https`."""
    return STORE_KINDS.get(protocol, protocol)


def explain(where: str, error: BaseException) -> InputError:
    """Returns the error of a store as one line with a remedy, ready to be raised.

    Args:
        where: URL or local path that the operation was about.
        error: what the store, or the library that reads it, raised.
    """
    text = one_line(error)
    kind = store_kind(where.split("://", 1)[0]) if "://" in where else "file"
    remedy = _remedy(kind, error, text)
    if isinstance(error, FileNotFoundError) and error.filename == where:
        return InputError(f"{where}: {remedy}")  # a local file: the error says no more than this
    return InputError(f"{redacted(where)}: {remedy} ({text})")


def _remedy(kind: str, error: BaseException, text: str) -> str:
    """Returns what is wrong and what to do, in words for this kind of store."""
    code = getattr(error, "errno", None) if isinstance(error, OSError) else None
    if isinstance(error, PermissionError) or error_code(error) in ACCESS_DENIED_CODES:
        return ACCESS_DENIED.get(kind, ACCESS_DENIED[None])
    if "NoCredentials" in text or "Unable to locate credentials" in text:
        return NO_CREDENTIALS
    if isinstance(error, FileNotFoundError):
        return MISSING.get(kind, MISSING[None])
    if isinstance(error, ConnectionError | TimeoutError) or UNREACHABLE.search(text):
        return CANNOT_BE_REACHED.get(kind, CANNOT_BE_REACHED[None])
    if code in (errno.ENOSPC, errno.EDQUOT):
        return NO_SPACE
    if code == errno.EROFS:
        return READ_ONLY
    return "cannot be used"


def error_code(error: BaseException | None) -> str:
    """Returns the error code in the answer of an S3 store, such as `AccessDenied`; empty for other errors."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def redacted(url: str) -> str:
    """Returns a URL without user name, password and query, which may hold credentials."""
    if "://" not in url:
        return url
    protocol, rest = url.split("://", 1)
    rest = re.sub(r"^[^/@]*@", "", rest)
    return f"{protocol}://" + (rest.split("?", 1)[0] if protocol.startswith("http") else rest)


def one_line(error: BaseException) -> str:
    """Returns class and text of an error on one line, at most `MAX_LINE` characters, credentials replaced by `***`."""
    text = re.sub(r"://[^/@\s]+@", "://***@", f"{type(error).__name__}: {error}")
    text = re.sub(
        r"(?i)((?:secret|token|sig|signature|password|access_?key\w*|credential)[\"'=: ]+)[^\s,;&)]+", r"\1***", text
    )
    return " ".join(text.split())[:MAX_LINE]
