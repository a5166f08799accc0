"""fsspec filesystems for Arrow. It is a module by itself so that a `Place` can be used without loading pyarrow."""

from __future__ import annotations

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs


def local() -> pafs.FileSystem:
    """Returns Arrow's local filesystem."""
    return pafs.LocalFileSystem()


def from_fsspec(fs: fsspec.AbstractFileSystem) -> pafs.FileSystem:
    """Returns an Arrow filesystem that reads and writes through fsspec."""
    return pafs.PyFileSystem(_Handler(fs))


class _Handler(pafs.FSSpecHandler):
    """Opens files without asking `isfile` first.

    pyarrow's handler asks, and `isfile` is false for every failure of a store: an unreachable store would look like a
    missing file.
    """

    def open_input_stream(self, path: str) -> pa.PythonFile:
        return pa.PythonFile(self.fs.open(path, mode="rb"), mode="r")

    open_input_file = open_input_stream
