"""One way to every store: fsspec, wrapped for Arrow where Arrow wants a filesystem.

Errors of a store become one line that names the address and the remedy, without its credentials.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs

from pipeline.errors import InputError

PACKAGES = {"gs": "'maskfleet[gs]'", "az": "'maskfleet[az]'", "hf": "huggingface_hub"}  # by family, for pip
FAMILIES = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az", "https": "http"}  # protocols of one kind of store


@dataclass(frozen=True)
class Place:
    """An address and the filesystem it is on. Picklable: workers open the store anew.

    Attributes:
        url: with its protocol (`s3://bucket/key`), or an absolute local path.
        options: fsspec storage options, beyond what the environment says. `key` goes to every store but the
            local disk; `s3.key` only to stores of that protocol.
    """

    url: str
    options: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def protocol(self) -> str:
        """`file` for a local path."""
        return self.url.split("://", 1)[0] if "://" in self.url else "file"

    @property
    def fs(self) -> fsspec.AbstractFileSystem:
        """The filesystem; fsspec keeps one instance a process and set of options.

        Raises:
            InputError: the protocol is unknown or its package is not installed.
        """
        try:
            if self.protocol == "file":
                return fsspec.filesystem("file", auto_mkdir=True)
            return fsspec.filesystem(self.protocol, **self.chosen)
        except ImportError:
            package = PACKAGES.get(family(self.protocol))
            remedy = f"pip install {package}" if package else f"install the fsspec package for {self.protocol}"
            raise InputError(f"{self.url}: this kind of storage needs another package: {remedy}") from None
        except ValueError as error:
            raise InputError(f"{self.url}: {error}") from None

    @property
    def chosen(self) -> dict[str, Any]:
        """The options for this store, for fsspec: ours, and of `options` those meant for it."""
        if self.protocol == "file":
            return {}
        return DEFAULTS.get(family(self.protocol), {}) | _chosen(self.options, self.protocol)

    @property
    def path(self) -> str:
        """The address as the filesystem wants it, without the protocol and a trailing slash."""
        return str(self.fs._strip_protocol(self.url)).rstrip("/")

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rstrip("/").rpartition("/")[2]

    def join(self, *parts: str) -> Place:
        """An address below this one."""
        return Place("/".join([self.url.rstrip("/"), *parts]), self.options)

    def arrow(self) -> pafs.FileSystem:
        """The filesystem for Arrow and Ray Data. pyarrow's own S3 ignores AWS_ENDPOINT_URL; s3fs does not."""
        if self.protocol == "file":
            return pafs.LocalFileSystem()
        return pafs.PyFileSystem(_Handler(self.fs))

    def put(self, data: bytes, parts: Place | None = None) -> None:
        """Writes a small object so that no reader ever sees a part of it.

        Args:
            parts: on a local disk, the folder where the file is until it is whole; None: its own.
        """
        if self.protocol != "file":
            self.fs.pipe_file(self.path, data)  # one PUT, or a multipart upload: visible when complete
            return
        folder = parts.path if parts else os.path.dirname(self.path)
        part = os.path.join(folder, f"{self.name}.{uuid.uuid4().hex}.part")
        os.makedirs(folder, exist_ok=True)
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        try:
            with open(part, "wb") as file:
                file.write(data)
            os.replace(part, self.path)
        except BaseException:
            with suppress(OSError):
                os.unlink(part)
            raise

    def list(self, suffix: str) -> list[Place]:
        """Objects directly below this prefix whose name ends in `suffix`, in order; none if it does not exist."""
        self.fs.invalidate_cache(self.path)
        try:
            names = self.fs.ls(self.path, detail=False)
        except FileNotFoundError:
            return []
        return [Place(self.url_of(n), self.options) for n in sorted(names) if n.endswith(suffix)]

    def version(self) -> str:
        """The version of the object as it is now, straight from the store; see `version_of`."""
        return version_of(self._info())

    def size(self) -> int:
        """Bytes of the object as it is now."""
        return int(self._info()["size"])

    def _info(self) -> dict[str, Any]:
        if self.protocol == "file":
            return local_info(self.path)
        self.fs.invalidate_cache(self.fs._parent(self.path))
        return self.fs.info(self.path)

    def url_of(self, path: str) -> str:
        """The URL of a path that this filesystem listed."""
        if self.protocol == "file" or path.startswith(f"{self.protocol}://"):
            return path
        return f"{self.protocol}://{path.lstrip('/')}"


class _Handler(pafs.FSSpecHandler):
    """Opens at once: pyarrow's own asks `isfile` first, to which every failure of a store is a missing file."""

    def open_input_stream(self, path: str) -> pa.PythonFile:
        return pa.PythonFile(self.fs.open(path, mode="rb"), mode="r")

    open_input_file = open_input_stream


# A store that cannot be reached should be reported in seconds, and a slow one survived. s3fs reads 50 MB
# ahead by default, so that one column of a Parquet file would cost the whole file.
S3_TIMEOUTS = {"connect_timeout": 5, "read_timeout": 60, "retries": {"max_attempts": 4, "mode": "standard"}}
DEFAULTS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": S3_TIMEOUTS, "default_cache_type": "none", "use_listings_cache": False},
    "gs": {"use_listings_cache": False},  # a listing of millions of keys would be kept
    "az": {"use_listings_cache": False},
}


def place(url: str | os.PathLike[str], options: dict[str, Any] | None = None) -> Place:
    """The place a user named: any fsspec URL, or a local path (made absolute)."""
    text = os.fspath(url)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if "://" not in text:
        text = os.path.abspath(os.path.expanduser(text))
    return Place(text.rstrip("/") or "/", options or {})


def family(protocol: str) -> str:
    """One name for the protocols of one kind of store."""
    return FAMILIES.get(protocol, protocol)


def _chosen(options: dict[str, Any], protocol: str) -> dict[str, Any]:
    """The options meant for a protocol: those without one in their name, then those with its."""
    named = {key: key.partition(".") for key in options}
    every = {key: options[key] for key, (_, dot, _) in named.items() if not dot}
    own = {name: options[key] for key, (of, dot, name) in named.items() if dot and family(of) == family(protocol)}
    return every | own


def local_info(path: str) -> dict[str, Any]:
    """Size and time of change of a local file, of a link's target."""
    stat = os.stat(path)
    return {"type": "file", "size": stat.st_size, "mtime": stat.st_mtime_ns}


def version_of(info: dict[str, Any]) -> str:
    """Changes when the content does: the store's etag where it has one, else time of change and size."""
    if etag := info.get("ETag") or info.get("etag"):
        return str(etag).strip('"')
    changed = next((info[k] for k in ("mtime", "LastModified", "last_modified", "created") if info.get(k)), "")
    return f"{changed}-{info.get('size')}"


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
    return InputError(f"{public(where)}: {remedy} ({text})")


def error_code(error: BaseException | None) -> str:
    """The code with which an S3 store refused; empty for other errors."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def public(url: str) -> str:
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
