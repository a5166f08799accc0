"""An object in a store as a seekable file that reads ahead."""

from __future__ import annotations

import io
from typing import Any

from pipeline.storage.filesystem import Place
from pipeline.storage.ranged_reads import MAX_REQUEST_BYTES, MERGE_GAP, ByteRange, read_ranges
from pipeline.storage.retries import RETRY_SECONDS

FIRST_READ = 8 << 10  # bytes of a request after a jump: the headers of a tar member, the footer of a Parquet file
MAX_READ_AHEAD = 8 << 20  # bytes of a request in the middle of a file that is read on and on
GROWTH = 4  # each request that continues the last one is this many times as large


class ObjectError(Exception):
    """One object cannot be read. The cause is the store's error."""


class ObjectFile(io.RawIOBase):
    """An object as a seekable file, read in ranges with retries.

    After a jump it requests little, and more with each read that continues from there. So headers between large tar
    members cost a small request each, and small members arrive together with their headers.

    Args:
        place: the object.
        size: bytes of the object.
        retry_seconds: how long to retry, see `retries`.

    Raises:
        ObjectError: while reading, if this object cannot be read.
        InputError: while reading, if its store cannot be used.
    """

    def __init__(self, place: Place, size: int, retry_seconds: float = RETRY_SECONDS) -> None:
        super().__init__()
        self._place, self._size, self._retry_seconds = place, size, retry_seconds
        self._position = 0
        self._buffer, self._buffer_start = b"", 0
        self._read_ahead = FIRST_READ

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
        """Reads the next bytes: as many as asked for, unless the object ends earlier."""
        stop = self._size if size is None or size < 0 else min(self._position + size, self._size)
        pieces: list[bytes] = []
        while self._position < stop:
            at = self._position - self._buffer_start
            if not 0 <= at < len(self._buffer):
                self._fill(stop - self._position)
                at = 0
            piece = self._buffer[at : at + stop - self._position]
            if not piece:
                break  # the object is shorter than it was
            self._position += len(piece)
            pieces.append(piece)
        return b"".join(pieces)

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _fill(self, needed: int) -> None:
        """Fills the buffer from the position on, with at least `needed` bytes and the read-ahead."""
        end = self._buffer_start + len(self._buffer)
        continues = end > 0 and 0 <= self._position - end <= MERGE_GAP
        self._read_ahead = min(self._read_ahead * GROWTH, MAX_READ_AHEAD) if continues else FIRST_READ
        stop = min(self._position + min(max(needed, self._read_ahead), MAX_REQUEST_BYTES), self._size)
        (answer,) = read_ranges(self._place, [ByteRange(self._place.path, self._position, stop)], self._retry_seconds)
        if isinstance(answer, Exception):
            raise ObjectError(self._place.url) from answer
        self._buffer_start, self._buffer = self._position, answer
