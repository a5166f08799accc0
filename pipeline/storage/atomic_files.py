"""Atomic results files on a local disk: a file appears when it is complete, as an object in a store does.

Ray Data writes Parquet through a filesystem that it is given. `AtomicFileSystem` writes each file to a temporary folder
on the same disk and renames it when it is closed, but only if it ends as a Parquet file does: a writer that fails
closes its file too.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
from fsspec.implementations.local import LocalFileSystem

from pipeline.storage.filesystem import Place

PARQUET_MAGIC = b"PAR1"  # the last bytes of a complete Parquet file


class AtomicFileSystem(LocalFileSystem):
    """fsspec's local filesystem, with atomic writes of Parquet files.

    Args:
        temporary: the folder for unfinished files.
    """

    protocol = "atomic"

    def __init__(self, temporary: str, **options: Any) -> None:
        super().__init__(auto_mkdir=True, **options)
        self._temporary = temporary

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> Any:
        if mode != "wb":
            return super()._open(path, mode, block_size, **options)
        os.makedirs(self._temporary, exist_ok=True)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        # A unique name, since an earlier attempt of the same task that Ray takes for dead may still be writing.
        name = f"{os.path.basename(path)}.{uuid.uuid4().hex}"
        return _UnfinishedFile(Path(self._temporary, name), path)


class _UnfinishedFile:
    """A file that is being written in the temporary folder, and the path that it gets when it is complete."""

    def __init__(self, temporary: Path, path: str) -> None:
        self._file, self._temporary, self._path = temporary.open("w+b"), temporary, path
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

    def __enter__(self) -> _UnfinishedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Renames the file to its path if it is a complete Parquet file, else deletes it."""
        if self._file.closed:
            return
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            size = self._file.tell()
            self._file.seek(max(size - len(PARQUET_MAGIC), 0))
            complete = self._file.read() == PARQUET_MAGIC
        finally:
            self._file.close()
        if complete:
            os.replace(self._temporary, self._path)
        else:
            self._temporary.unlink()


def temporary_folder(output: Place) -> Place:
    """Returns the folder for unfinished files. `pipeline.output.results.remove_partial_files` empties it."""
    return output.join("_checkpoint", "parts")


def results_filesystem(output: Place) -> pafs.FileSystem:
    """Returns the filesystem through which the results files of an output are written."""
    if output.protocol != "file":
        return output.arrow()
    return pafs.PyFileSystem(pafs.FSSpecHandler(AtomicFileSystem(temporary_folder(output).path)))
