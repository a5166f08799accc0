"""Tar shards: what is in them, from their headers; and .tgz shards, which can only be read from end to end."""

from __future__ import annotations

import gzip
import io
import posixpath
import tarfile
import zlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

DAMAGE_ERRORS = (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, OverflowError, ValueError)
BLOCK = 1 << 20  # bytes at once of a stream
CHAIN = 40  # links that are followed from one to the next, as many as Linux does


class Member(NamedTuple):
    """A name in a tar, and where what it stands for lies.

    Attributes:
        name: as it is stored; bytes that are no UTF-8 are surrogates.
        offset, size: bytes, of a tar unpacked; 0 where there is an error.
        error: why there is nothing to read, `Class: reason`.
    """

    name: str
    offset: int
    size: int
    error: str | None


def members(file: io.RawIOBase, compressed: bool) -> Iterator[Member]:
    """Each regular file in a tar, in order, then each link to one; of two of one name the last counts.

    Raises:
        DAMAGE_ERRORS: the tar is damaged or ends early; after what came before.
    """
    names = _Names()
    damage: Exception | None = None
    try:
        for header, _ in _headers(file, compressed):
            if names.add(header):
                yield names.file(len(names) - 1, header.name)
    except DAMAGE_ERRORS as error:
        damage = error
    yield from names.links()
    if damage:
        raise damage


def read_members(file: io.RawIOBase, wanted: Mapping[int, Sequence[int]]) -> Iterator[tuple[int, bytes]]:
    """(key, bytes) of members of a .tgz by where their data begins in the unpacked tar, in order.

    Args:
        wanted: keys of each member by its offset; several, where links stand for it too.

    Raises:
        DAMAGE_ERRORS: the stream is damaged or ends early.
    """
    left = len(wanted)
    for header, tar in _headers(file, compressed=True) if left else ():
        if header.offset_data in wanted:
            with tar.extractfile(header) as stream:  # type: ignore[union-attr]
                data = stream.read()
            yield from ((key, data) for key in wanted[header.offset_data])
            left -= 1
            if not left:
                return


def _headers(file: io.RawIOBase, compressed: bool) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    """The header of each regular file and each link in a tar, and the tar to extract it from, in order."""
    stream = _Unpacked(file) if compressed else None
    mode: Any = {"mode": "r|", "bufsize": BLOCK, "fileobj": stream} if stream else {"mode": "r:", "fileobj": file}
    try:
        with tarfile.open(tarinfo=_Member, **mode) as tar:
            while member := tar.next():
                tar.members.clear()  # type: ignore[attr-defined]  # or it keeps them all
                if member.isfile() or member.islnk() or member.issym():
                    yield member, tar
        while stream and stream.read(BLOCK):  # to the checksum
            pass
    except tarfile.TarError as error:
        raise (stream and stream.damage) or error from None
    if stream and stream.damage:
        raise stream.damage


class _Link(NamedTuple):
    target: str
    before: int | None  # a hard link names an earlier member, a symbolic one any


class _Names:
    """Which name is what: 24 bytes a member and the links, which can be followed when all have been added."""

    def __init__(self) -> None:
        self._hashes, self._offsets, self._sizes = array("q"), array("q"), array("q")
        self._links: dict[int, _Link] = {}
        self._last: dict[str, int] = {}  # link of a name that no later file has

    def __len__(self) -> int:
        return len(self._hashes)

    def add(self, header: tarfile.TarInfo) -> bool:
        """Adds a member; whether it is a file."""
        number, is_file = len(self), header.isfile()
        if header.islnk():
            self._links[number] = _Link(posixpath.normpath(header.linkname), number)
        elif not is_file:
            target = posixpath.join(posixpath.dirname(header.name), header.linkname)
            self._links[number] = _Link(posixpath.normpath(target), None)
        if is_file:
            self._last.pop(header.name, None)
        else:
            self._last[header.name] = number
        self._hashes.append(_hash(header.name))
        self._offsets.append(-1 if header.issparse() else header.offset_data)
        self._sizes.append(header.size)
        return is_file

    def file(self, number: int, name: str) -> Member:
        """The file that was added so, under a name."""
        if self._offsets[number] < 0:
            return Member(name, 0, 0, "SparseMember: sparse files in a tar are not read")
        return Member(name, self._offsets[number], self._sizes[number], None)

    def links(self) -> Iterator[Member]:
        """Each link that no later member of its name replaces."""
        if not self._links:
            return
        hashes = np.frombuffer(self._hashes, np.int64)
        order = np.argsort(hashes, kind="stable")
        hashes = hashes[order]

        def last(name: str, before: int | None) -> int | None:
            first, stop = (int(np.searchsorted(hashes, _hash(name), side)) for side in ("left", "right"))
            same = order[first:stop]
            stop = len(same) if before is None else int(np.searchsorted(same, before))
            return int(same[stop - 1]) if stop else None

        for name, number in self._last.items():
            at: int | None = number
            for _ in range(CHAIN):
                if at in self._links:
                    at = last(self._links[at].target, self._links[at].before)
            if at is None or at in self._links:
                why = "is no file in this tar" if at is None else f"leads on through {CHAIN} links or in a circle"
                yield Member(name, 0, 0, f"BrokenLink: names {self._links[number].target!r}, which {why}")
            else:
                yield self.file(at, name)


def _hash(name: str) -> int:
    return hash(posixpath.normpath(name))


class _Unpacked:
    """A gzip stream, unpacked. Where it is damaged it ends, so that nothing is lost of what comes before."""

    def __init__(self, file: io.RawIOBase) -> None:
        self._stream = gzip.GzipFile(fileobj=io.BufferedReader(file, BLOCK))
        self.damage: Exception | None = None

    def read(self, size: int) -> bytes:
        """Some bytes; none at the end."""
        try:
            return b"" if self.damage else self._stream.read1(size)
        except DAMAGE_ERRORS as error:
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
