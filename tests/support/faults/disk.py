"""A small disk that can be filled while a job writes to it."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path
from types import TracebackType


class SmallDisk:
    """A small tmpfs on a folder, as a context manager; the folder must exist and be empty.

    Raises:
        PermissionError: only root may mount one.
    """

    def __init__(self, folder: Path, mebibytes: int) -> None:
        self.folder, self._size, self._filler = folder, mebibytes, folder / "filler"

    def __enter__(self) -> SmallDisk:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={self._size}m", "tmpfs", str(self.folder)]
        if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
            raise PermissionError("only root may mount a small disk")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)

    def fill(self) -> None:
        """Takes all free space."""
        with suppress(OSError), self._filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def free(self) -> None:
        """Frees what `fill` took."""
        self._filler.unlink()
