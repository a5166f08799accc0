"""An object as a seekable file that reads ahead."""

from __future__ import annotations

import io
from typing import Any

from pipeline.storage.filesystem import Place
from pipeline.storage.ranged_reads import MAX_REQUEST_BYTES, MERGE_GAP, Range, read_ranges
from pipeline.storage.retries import RETRY_SECONDS

FIRST, AHEAD = 8 << 10, 8 << 20  # bytes of a request after a jump; of one in the middle of a file read on and on


class ObjectError(Exception):
    """An object cannot be read, by its own fault; the cause is the store's error."""


class ObjectFile(io.RawIOBase):
    """An object as a seekable file, read in ranges with retry_seconds.

    After a jump it reads little, and more with each read that goes on from there: so headers between large
    members cost a small request each, and small members are read along with them.

    Args:
        size: bytes of the object.

    Raises:
        ObjectError: by reads, if the object cannot be read.
        InputError: by reads, if its store cannot.
    """

    def __init__(self, place: Place, size: int, retry_seconds: float = RETRY_SECONDS) -> None:
        super().__init__()
        self._place, self._size, self._patience = place, size, retry_seconds
        self._position, self._start, self._ahead = 0, 0, FIRST
        self._buffer = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def read(self, size: int = -1) -> bytes:
        """The next bytes: as many as asked for, unless the object ends before."""
        stop = self._size if size is None or size < 0 else min(self._position + size, self._size)
        pieces: list[bytes] = []
        while self._position < stop:
            at = self._position - self._start
            if not 0 <= at < len(self._buffer):
                self._fill(stop - self._position)
                at = 0
            piece = self._buffer[at : at + stop - self._position]
            if not piece:
                break  # shorter than it was
            self._position += len(piece)
            pieces.append(piece)
        return b"".join(pieces)

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _fill(self, needed: int) -> None:
        """Makes the buffer begin at the position and hold what is needed, and some more."""
        going_on = (
            0 <= self._position - self._start - len(self._buffer) <= MERGE_GAP and self._start + len(self._buffer) > 0
        )
        self._ahead = min(self._ahead * 4, AHEAD) if going_on else FIRST
        stop = min(self._position + min(max(needed, self._ahead), MAX_REQUEST_BYTES), self._size)
        (got,) = read_ranges(self._place, [Range(self._place.path, self._position, stop)], self._patience)
        if isinstance(got, Exception):
            raise ObjectError(self._place.url) from got
        self._start, self._buffer = self._position, got
