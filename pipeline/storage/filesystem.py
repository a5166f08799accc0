"""A place: an address in a store, and the fsspec filesystem that opens it.

Every store is reached through fsspec. A store that fsspec knows works without a change here. `STORE_KINDS` lists
protocols that mean the same store, `PACKAGES` the packages to install and `DEFAULT_OPTIONS` our defaults.
"""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import fsspec

from pipeline.errors import InputError
from pipeline.storage.object_info import local_info, version_of
from pipeline.storage.store_errors import store_kind

if TYPE_CHECKING:
    import pyarrow.fs as pafs

PACKAGES = {"gs": "gcsfs", "az": "adlfs", "hf": "huggingface_hub"}  # what pip installs for a store
# An unreachable store is reported within seconds, and a slow one is waited for.
S3_TIMEOUTS = {"connect_timeout": 5, "read_timeout": 60, "retries": {"max_attempts": 4, "mode": "standard"}}
DEFAULT_OPTIONS: dict[str, dict[str, Any]] = {
    # By default s3fs reads 50 MB ahead, so one column of a Parquet file would cost the whole file. The cache of
    # listings is off in every store: it would hold millions of keys.
    "s3": {"config_kwargs": S3_TIMEOUTS, "default_cache_type": "none", "use_listings_cache": False},
    "gs": {"use_listings_cache": False},
    "az": {"use_listings_cache": False},
}


@dataclass(frozen=True)
class Place:
    """An address and the filesystem that holds it. Picklable: each process opens the store again.

    Attributes:
        url: with its protocol (`s3://bucket/key`), or an absolute local path.
        options: fsspec storage options from the user, beyond what the environment says. A key such as `anon` goes to
            every store except the local disk. `s3.anon` goes only to stores of that protocol.
    """

    url: str
    options: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def protocol(self) -> str:
        """The protocol of the URL; `file` for a local path."""
        return self.url.split("://", 1)[0] if "://" in self.url else "file"

    @property
    def fs(self) -> fsspec.AbstractFileSystem:
        """The filesystem. fsspec keeps one instance for each process and set of options.

        Raises:
            InputError: the protocol is unknown, or its package is not installed.
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
        """What fsspec gets for this store: our defaults, then the entries of `options` that apply to it."""
        if self.protocol == "file":
            return {}
        return DEFAULT_OPTIONS.get(store_kind(self.protocol), {}) | options_for(self.options, self.protocol)

    @property
    def path(self) -> str:
        """The address in the form that the filesystem expects: no protocol, no trailing slash."""
        return str(self.fs._strip_protocol(self.url)).rstrip("/")

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rstrip("/").rpartition("/")[2]

    def join(self, *parts: str) -> Place:
        """Returns an address below this one."""
        return Place("/".join([self.url.rstrip("/"), *parts]), self.options)

    def arrow(self) -> pafs.FileSystem:
        """Returns the filesystem for Arrow and Ray Data.

        It wraps fsspec, because pyarrow's S3 filesystem ignores AWS_ENDPOINT_URL and s3fs does not.
        """
        from pipeline.storage.arrow_filesystem import from_fsspec, local  # loads pyarrow

        return local() if self.protocol == "file" else from_fsspec(self.fs)

    def put(self, data: bytes, temporary: Place | None = None) -> None:
        """Writes a small object atomically: a reader sees all of it or nothing.

        Args:
            data: the content.
            temporary: on a local disk, the folder for the unfinished file. None: the folder of the object.
        """
        if self.protocol != "file":
            self.fs.pipe_file(self.path, data)  # one PUT or a multipart upload: it appears when it is complete
        else:
            _write_local(self.path, data, temporary.path if temporary else os.path.dirname(self.path))

    def list(self, suffix: str) -> list[Place]:
        """Returns the objects directly below this prefix whose names end in `suffix`, sorted.

        The list is empty if the prefix does not exist.
        """
        self.fs.invalidate_cache(self.path)
        try:
            names = self.fs.ls(self.path, detail=False)
        except FileNotFoundError:
            return []
        return [Place(self.url_of(n), self.options) for n in sorted(names) if n.endswith(suffix)]

    def version(self) -> str:
        """Returns the current version of the object, straight from the store; see `version_of`."""
        return version_of(self._info())

    def size(self) -> int:
        """Returns the current size of the object in bytes, straight from the store."""
        return int(self._info()["size"])

    def _info(self) -> dict[str, Any]:
        if self.protocol == "file":
            return local_info(self.path)
        self.fs.invalidate_cache(self.fs._parent(self.path))
        return self.fs.info(self.path)

    def url_of(self, path: str) -> str:
        """Returns the URL of a path that this filesystem listed."""
        if self.protocol == "file" or path.startswith(f"{self.protocol}://"):
            return path
        return f"{self.protocol}://{path.lstrip('/')}"


def place(url: str | os.PathLike[str], options: dict[str, Any] | None = None) -> Place:
    """Returns the place that a user named: any fsspec URL, or a local path, which becomes absolute."""
    text = os.fspath(url)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if "://" not in text:
        text = os.path.abspath(os.path.expanduser(text))
    return Place(text.rstrip("/") or "/", options or {})


def options_for(options: dict[str, Any], protocol: str) -> dict[str, Any]:
    """Returns the options for one protocol: first those without a prefix, then those with its prefix."""
    keys = {key: key.partition(".") for key in options}
    general = {key: options[key] for key, (_, dot, _) in keys.items() if not dot}
    kind = store_kind(protocol)
    specific = {name: options[key] for key, (of, dot, name) in keys.items() if dot and store_kind(of) == kind}
    return general | specific


def _write_local(path: str, data: bytes, temporary: str) -> None:
    """Writes a local file in the folder `temporary`, then renames it to `path`."""
    unfinished = os.path.join(temporary, f"{os.path.basename(path)}.{uuid.uuid4().hex}.part")
    os.makedirs(temporary, exist_ok=True)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        with open(unfinished, "wb") as file:
            file.write(data)
        os.replace(unfinished, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(unfinished)
        raise
