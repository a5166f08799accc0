"""Many copies of a few shipped images under other names: one undisturbed run says what all rows must be."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from s3fs import S3FileSystem


def names(sources: Sequence[Path], count: int) -> list[str]:
    """Returns file names: those of the sources in turn, each with a number before it."""
    return [f"{i:04d}-{sources[i % len(sources)].name}" for i in range(count)]


def original(uri: str) -> str:
    """Returns the file name of the image that an address is a copy of."""
    return re.sub(r"^\d{4}-", "", re.split("[/#]", uri)[-1])


def upload(fs: S3FileSystem, sources: Sequence[Path], prefix: str, count: int) -> list[str]:
    """Stores copies of the sources below a prefix (`bucket/plates`); returns their addresses."""
    keys = [f"{prefix}/{name}" for name in names(sources, count)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: fs.pipe_file(keys[i], sources[i % len(sources)].read_bytes()), range(count)))
    return [f"s3://{key}" for key in keys]


def shard(members: Iterable[tuple[str, Path]]) -> bytes:
    """Packs files into a tar under other names."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, path in members:
            tar.add(path, arcname=name)
    return buffer.getvalue()


def whole_members(data: bytes) -> tuple[list[str], list[str]]:
    """Reads the blocks of a tar: names of the members whose header is there, and of those that are complete."""
    headers, whole, at = [], [], 0
    while at + tarfile.BLOCKSIZE <= len(data):
        member = tarfile.TarInfo.frombuf(data[at : at + tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
        end = at + tarfile.BLOCKSIZE + member.size
        headers.append(member.name)
        if end <= len(data):
            whole.append(member.name)
        at = at + tarfile.BLOCKSIZE + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return headers, whole
