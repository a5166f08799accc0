"""One way to every store: fsspec, wrapped for Arrow where Arrow wants a filesystem."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs

from pipeline.errors import InputError
from pipeline.storage.object_info import local_info, version_of

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
            return fsspec.filesystem(self.protocol, **self.storage_options)
        except ImportError:
            package = PACKAGES.get(store_kind(self.protocol))
            remedy = f"pip install {package}" if package else f"install the fsspec package for {self.protocol}"
            raise InputError(f"{self.url}: this kind of storage needs another package: {remedy}") from None
        except ValueError as error:
            raise InputError(f"{self.url}: {error}") from None

    @property
    def storage_options(self) -> dict[str, Any]:
        """The options for this store, for fsspec: ours, and of `options` those meant for it."""
        if self.protocol == "file":
            return {}
        return DEFAULTS.get(store_kind(self.protocol), {}) | options_for(self.options, self.protocol)

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


def store_kind(protocol: str) -> str:
    """One name for the protocols of one kind of store."""
    return FAMILIES.get(protocol, protocol)


def options_for(options: dict[str, Any], protocol: str) -> dict[str, Any]:
    """The options meant for a protocol: those without one in their name, then those with its."""
    named = {key: key.partition(".") for key in options}
    every = {key: options[key] for key, (_, dot, _) in named.items() if not dot}
    own = {
        name: options[key] for key, (of, dot, name) in named.items() if dot and store_kind(of) == store_kind(protocol)
    }
    return every | own
