"""A local disk on which a results file appears only when it is whole, as an object in a store does.

Ray Data writes through the filesystem that it is given. This one lets it write elsewhere on the same disk and
moves the file to its place when it is closed, if what was written ends as a Parquet file does: a writer that
fails closes its file too.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
from fsspec.implementations.local import LocalFileSystem

from pipeline.storage.filesystem import Place

MAGIC = b"PAR1"  # the last bytes of a Parquet file


class AtomicFileSystem(LocalFileSystem):
    """fsspec's local disk, with `parts` as the folder of files that are being written."""

    protocol = "whole"

    def __init__(self, parts: str, **options: Any) -> None:
        super().__init__(auto_mkdir=True, **options)
        self.parts = parts

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> Any:
        if mode != "wb":
            return super()._open(path, mode, block_size, **options)
        os.makedirs(self.parts, exist_ok=True)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        name = f"{os.path.basename(path)}.{uuid.uuid4().hex}"  # an attempt given up for dead may still be writing
        return _Part(Path(self.parts, name), path)


class _Part:
    """A file that is being written, and where it belongs."""

    def __init__(self, part: Path, path: str) -> None:
        self._file, self._part, self._path = part.open("w+b"), part, path
        self.write, self.flush, self.tell = self._file.write, self._file.flush, self._file.tell

    @property
    def closed(self) -> bool:
        return self._file.closed

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def __enter__(self) -> _Part:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._file.closed:
            return
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            size = self._file.tell()
            self._file.seek(max(size - len(MAGIC), 0))
            whole = self._file.read() == MAGIC
        finally:
            self._file.close()
        if whole:
            os.replace(self._part, self._path)
        else:
            self._part.unlink()


def temporary_folder(output: Place) -> Place:
    """The folder of an output for what is being written; `pipeline.output.results.remove_partial_files` empties it."""
    return output.join("_checkpoint", "parts")


def results_filesystem(output: Place) -> pafs.FileSystem:
    """The filesystem through which the results files of an output are to be written."""
    if output.protocol != "file":
        return output.arrow()
    return pafs.PyFileSystem(pafs.FSSpecHandler(AtomicFileSystem(temporary_folder(output).path)))
