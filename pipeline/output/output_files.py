"""Lists the files of an output and reads their Parquet footers.

Every reader of an output uses it, while a job is running or long after. The files are the only state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError
from pipeline.storage import Place, explain

T = TypeVar("T")
READERS = 16  # threads that read footers; they mostly wait for the store


def list_files(output: Place, folder: str, suffix: str = ".parquet") -> list[Place]:
    """Lists the files directly in a folder of the output.

    Args:
        output: root of the output.
        folder: folder below it, such as "results".
        suffix: only names that end in it; "" lists all files.

    Returns:
        The files in order of their names; an empty list if the folder does not exist.

    Raises:
        InputError: the store cannot be read.
    """
    try:
        return output.join(folder).list(suffix)
    except InputError:
        raise
    except Exception as error:  # the error type depends on the store
        raise explain(output.url, error) from None


def complete_results(output: Place) -> list[Place]:
    """Lists the results files that are complete.

    An object store shows an object only when it is complete. On a local disk the footers are checked too: a crash of
    the machine may have cut a file off.

    Raises:
        InputError: there are no results yet, this is not an output, or it cannot be read.
    """
    files = list_files(output, "results")
    if output.protocol == "file":
        footers = map_files(read_footer, files)
        files = [file for file, footer in zip(files, footers, strict=True) if footer is not None]
    if not files:
        raise no_results(output)
    return files


def read_footer(file: Place) -> pq.FileMetaData | None:
    """Reads the footer of a Parquet file.

    Returns:
        The footer, or None if the file is not complete or was removed after it was listed.

    Raises:
        InputError: the store cannot be read.
    """
    try:
        return pq.read_metadata(file.path, filesystem=file.arrow())
    except (pa.ArrowInvalid, FileNotFoundError):
        return None
    except Exception as error:  # the error type depends on the store
        raise explain(file.url, error) from None


def map_files(function: Callable[[Place], T], files: Iterable[Place]) -> list[T]:
    """Calls a function for each file in a thread pool and returns the results in the same order."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(function, files))


def no_results(output: Place) -> InputError:
    """Returns the error that says why an output holds no results."""
    if any(list_files(output, folder, "") for folder in ("catalog", "results", "runs")):
        return InputError(f"{output.url} has no results yet: wait for the first file, or run maskfleet segment again")
    return InputError(
        f"{output.url} is not an output of maskfleet segment (it has no catalog/ and no results/): "
        f"check the spelling, or create it with: maskfleet segment INPUT {output.url}"
    )
