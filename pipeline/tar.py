"""Tar shards: what is in them, from their headers; and .tgz shards, which can only be read from end to end."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

DAMAGE = (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, OverflowError, ValueError)
BLOCK = 1 << 20  # bytes at once of a stream


def members(file: io.RawIOBase, compressed: bool) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    """Each regular file in a tar, and the tar to extract it from, in order.

    Raises:
        DAMAGE: the tar is damaged or ends early.
    """
    stream = _Unpacked(file) if compressed else None
    mode: Any = {"mode": "r|", "bufsize": BLOCK, "fileobj": stream} if stream else {"mode": "r:", "fileobj": file}
    try:
        with tarfile.open(tarinfo=_Member, **mode) as tar:
            while member := tar.next():
                tar.members.clear()  # type: ignore[attr-defined]  # or it keeps them all
                if member.isfile():
                    yield member, tar
        while stream and stream.read(BLOCK):  # to the checksum
            pass
    except tarfile.TarError as error:
        raise (stream and stream.damage) or error from None
    if stream and stream.damage:
        raise stream.damage


def contents(file: io.RawIOBase, wanted: Mapping[int, int]) -> Iterator[tuple[int, bytes]]:
    """(key, bytes) of members of a .tgz by where their data begins in the unpacked tar, in order.

    Args:
        wanted: key of each member by its offset.

    Raises:
        DAMAGE: the stream is damaged or ends early.
    """
    left = len(wanted)
    for member, tar in members(file, compressed=True) if left else ():
        if member.offset_data in wanted:
            with tar.extractfile(member) as data:  # type: ignore[union-attr]
                yield wanted[member.offset_data], data.read()
            left -= 1
            if not left:
                return


class _Unpacked:
    """A gzip stream, unpacked. Where it is damaged it ends, so that nothing is lost of what comes before."""

    def __init__(self, file: io.RawIOBase) -> None:
        self._stream = gzip.GzipFile(fileobj=io.BufferedReader(file, BLOCK))
        self.damage: Exception | None = None

    def read(self, size: int) -> bytes:
        """Some bytes; none at the end."""
        try:
            return b"" if self.damage else self._stream.read1(size)
        except DAMAGE as error:
            self.damage = error
            return b""


class _Member(tarfile.TarInfo):
    """A header. One that is damaged or missing is an error, where tarfile takes it for the end of the tar."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile, **options: Any) -> _Member:  # type: ignore[override]
        try:
            return super().fromtarfile(tar, **options)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} at byte {tar.offset}") from None
