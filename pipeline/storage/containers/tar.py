"""Tar shards: lists their members from the headers. Members of a .tgz can only be read from start to end."""

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
BLOCK_BYTES = 1 << 20  # read at once from a stream
MAX_LINKS = 40  # links followed from one to the next, the limit of Linux


class Member(NamedTuple):
    """A name in a tar, and where its data lies.

    Attributes:
        name: as stored. Bytes that are not UTF-8 become surrogates.
        offset: of the data, in bytes, in the unpacked tar; 0 if there is an error.
        size: of the data, in bytes; 0 if there is an error.
        error: why the data cannot be read, `kind: reason`; or None.
    """

    name: str
    offset: int
    size: int
    error: str | None


def members(file: io.RawIOBase, compressed: bool) -> Iterator[Member]:
    """Yields each regular file of a tar in order, then each link to one.

    A name may occur twice. Both files are yielded; the last one counts, as in tar itself.

    Raises:
        DAMAGE_ERRORS: the tar is damaged or ends early. The members before that are yielded first.
    """
    index = _MemberIndex()
    damage: Exception | None = None
    try:
        for header, _ in _headers(file, compressed):
            if index.add(header):
                yield index.file(len(index) - 1, header.name)
    except DAMAGE_ERRORS as error:
        damage = error
    yield from index.links()
    if damage:
        raise damage


def read_members(file: io.RawIOBase, wanted: Mapping[int, Sequence[int]]) -> Iterator[tuple[int, bytes]]:
    """Yields (key, bytes) of members of a .tgz, in order.

    Args:
        file: a .tgz.
        wanted: keys of each member, by the offset of its data in the unpacked tar. A member has several keys if links
            point to it.

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
    """Yields the header of each regular file and each link in order, with the tar that can extract it."""
    stream = _GunzipStream(file) if compressed else None
    mode: Any = {"mode": "r|", "bufsize": BLOCK_BYTES, "fileobj": stream} if stream else {"mode": "r:", "fileobj": file}
    try:
        with tarfile.open(tarinfo=_StrictTarInfo, **mode) as tar:
            while member := tar.next():
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep the header of every member
                if member.isfile() or member.islnk() or member.issym():
                    yield member, tar
        while stream and stream.read(BLOCK_BYTES):  # up to the checksum at the end
            pass
    except tarfile.TarError as error:
        raise (stream and stream.damage) or error from None
    if stream and stream.damage:
        raise stream.damage


class _Link(NamedTuple):
    target: str
    before: int | None  # a hard link names a member before this number; a symbolic link (None) may name any


class _MemberIndex:
    """All members of a tar by name, in 24 bytes each, so that links can be followed at the end."""

    def __init__(self) -> None:
        self._hashes, self._offsets, self._sizes = array("q"), array("q"), array("q")
        self._links: dict[int, _Link] = {}
        self._last_link: dict[str, int] = {}  # number of the last link of each name that no later file replaced

    def __len__(self) -> int:
        return len(self._hashes)

    def add(self, header: tarfile.TarInfo) -> bool:
        """Adds a member. Returns whether it is a file."""
        number, is_file = len(self), header.isfile()
        if header.islnk():
            self._links[number] = _Link(posixpath.normpath(header.linkname), number)
        elif not is_file:
            target = posixpath.join(posixpath.dirname(header.name), header.linkname)
            self._links[number] = _Link(posixpath.normpath(target), None)
        if is_file:
            self._last_link.pop(header.name, None)
        else:
            self._last_link[header.name] = number
        self._hashes.append(_name_hash(header.name))
        self._offsets.append(-1 if header.issparse() else header.offset_data)
        self._sizes.append(header.size)
        return is_file

    def file(self, number: int, name: str) -> Member:
        """Returns the file with this number, under a name."""
        if self._offsets[number] < 0:
            return Member(name, 0, 0, "SparseMember: sparse files in a tar are not read")
        return Member(name, self._offsets[number], self._sizes[number], None)

    def links(self) -> Iterator[Member]:
        """Yields each link that no later member with its name replaced."""
        if not self._links:
            return
        hashes = np.frombuffer(self._hashes, np.int64)
        order = np.argsort(hashes, kind="stable")
        hashes = hashes[order]

        def last_with_name(name: str, before: int | None) -> int | None:
            first, stop = (int(np.searchsorted(hashes, _name_hash(name), side)) for side in ("left", "right"))
            same = order[first:stop]
            stop = len(same) if before is None else int(np.searchsorted(same, before))
            return int(same[stop - 1]) if stop else None

        for name, number in self._last_link.items():
            target: int | None = number
            for _ in range(MAX_LINKS):
                if target in self._links:
                    target = last_with_name(*self._links[target])
            if target is None or target in self._links:
                broken = "is no file in this tar"
                if target is not None:
                    broken = f"leads on through {MAX_LINKS} links or in a circle"
                yield Member(name, 0, 0, f"BrokenLink: names {self._links[number].target!r}, which {broken}")
            else:
                yield self.file(target, name)


def _name_hash(name: str) -> int:
    return hash(posixpath.normpath(name))


class _GunzipStream:
    """Unpacks a gzip stream. At damage it ends like a complete stream, so that everything before that is read.

    Attributes:
        damage: the error at which the stream ended, or None.
    """

    def __init__(self, file: io.RawIOBase) -> None:
        self._stream = gzip.GzipFile(fileobj=io.BufferedReader(file, BLOCK_BYTES))
        self.damage: Exception | None = None

    def read(self, size: int) -> bytes:
        """Reads up to `size` bytes; none at the end."""
        try:
            return b"" if self.damage else self._stream.read1(size)
        except DAMAGE_ERRORS as error:
            self.damage = error
            return b""


class _StrictTarInfo(tarfile.TarInfo):
    """A header that raises an error if it is damaged or missing. tarfile would take it for the end of the tar."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile, **options: Any) -> _StrictTarInfo:  # type: ignore[override]
        try:
            return super().fromtarfile(tar, **options)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} at byte {tar.offset}") from None
