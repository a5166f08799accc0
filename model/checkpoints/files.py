"""Reads the bytes of a checkpoint, and of files next to it, from a path or a URI."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model.errors import WeightsError


def read_bytes(location: str, storage: Mapping[str, Any] | None = None) -> bytes:
    """Reads a file.

    Args:
        location: a path, or a URI that fsspec can open.
        storage: fsspec's storage options for a URI. The environment supplies the rest.

    Raises:
        WeightsError: The file cannot be read.
    """
    if "://" not in location:
        try:
            return Path(location).read_bytes()
        except OSError as error:
            raise WeightsError(f"cannot read weights {location}: {error.strerror}") from None
    if (data := _read_uri(location, storage)) is None:
        raise WeightsError(f"cannot read weights {redact(location)}: FileNotFoundError")
    return data


def read_sibling(
    location: str, names: Sequence[str], storage: Mapping[str, Any] | None = None
) -> tuple[str, bytes] | None:
    """Reads the first of some files that exists in the same folder as another.

    Args:
        location: path or URI of the other file.
        names: file names in order of preference.
        storage: fsspec's storage options for a URI.

    Returns:
        The name and the content, or None if no such file exists. A web server may answer anything to a request for
        a file that does not exist, so for an HTTP address the result is always None.

    Raises:
        WeightsError: The store refuses to say whether a file exists.
    """
    if "?" in location or location.startswith(("http:", "https:")):
        return None
    if "://" not in location:
        folder = str(Path(location).parent) + os.sep
        return next(((name, read_bytes(folder + name)) for name in names if Path(folder + name).is_file()), None)
    folder, refusal = location[: location.rfind("/") + 1], None
    for name in names:
        try:
            data = _read_uri(folder + name, storage)
        except WeightsError as error:  # without permission to list, a store refuses missing files in the same way
            refusal, data = error, None
        if data is not None:
            return name, data
    if refusal:
        raise WeightsError(f"{refusal}; if its store forbids it, copy the weights' folder to a disk") from None
    return None


def redact(location: str) -> str:
    """Removes a password or a signature from a location, so that it can be shown."""
    return re.sub(r"//[^/@]*@", "//", location.split("?")[0])


def _read_uri(location: str, storage: Mapping[str, Any] | None) -> bytes | None:
    """Reads an object. Returns None if it does not exist."""
    import fsspec

    try:
        with fsspec.open(location, "rb", **(storage or {})) as file:
            return file.read()
    except FileNotFoundError:
        return None
    except Exception as error:  # every store raises different errors
        raise WeightsError(f"cannot read weights {redact(location)}: {type(error).__name__}") from None
