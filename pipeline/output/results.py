"""The results files: what is done, and the few changes that are ever made to files that are there.

Ray Data writes each file in two phases: the ids as a pending checkpoint, the data file, then the pending one
is renamed. So once the data files of pending checkpoints are gone, what lies under results/ is what was
committed, and one columnar read of it says what is done.

A file that changes is replaced as a whole: a reader sees the old or the new one, and a job that is killed
between two files has lost nothing.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from ray.data.checkpoint.checkpoint_writer import PENDING_CHECKPOINT_SUFFIX

from pipeline.storage import Place
from pipeline.storage.atomic_files import temporary_folder

PENDING = f"{PENDING_CHECKPOINT_SUFFIX}.parquet"


def remove_partial_files(output: Place) -> int:
    """Removes what stopped runs left half written; the number of files that were.

    The data file goes before the checkpoint that names it: an interrupted clean-up is repeated.
    """
    pending = output.join("_checkpoint").list(PENDING)
    files = output.join("results").list("") if pending else []
    for checkpoint in pending:
        written = checkpoint.name.removesuffix(PENDING)
        for place in files:
            if place.name.startswith(written) and place.name[len(written)] in ".-":
                place.fs.rm_file(place.path)
        checkpoint.fs.rm_file(checkpoint.path)
    for part in temporary_folder(output).list(""):
        part.fs.rm_file(part.path)
    return len(pending)


def done_ids(output: Place, without_errors: bool = False) -> np.ndarray:
    """int64, sorted: the images that have a row, as often as they have one. Call `remove_partial_files` first.

    Args:
        without_errors: only rows of images that did not fail.
    """
    results = output.join("results")
    files = [p.path for p in results.list(".parquet")]
    if not files:
        return np.zeros(0, np.int64)
    rows = pc.field("error").is_null() if without_errors else None
    table = pads.dataset(files, filesystem=results.arrow(), format="parquet").to_table(["image_id"], rows)
    return np.sort(table["image_id"].to_numpy())


def remove_duplicates(output: Place, done: np.ndarray) -> int:
    """Leaves one row to each image, one without an error where there is one; the number of rows removed.

    Rows are doubled where a process that was given up for dead wrote a file after all.

    Args:
        done: of `done_ids`.
    """
    doubled = np.unique(done[1:][done[1:] == done[:-1]])
    if not len(doubled):
        return 0
    stays: dict[int, tuple[str, int, bool]] = {}  # of each image: file, row in it, and whether that has no error
    for place, rows, ids, good in _rows_of(output, doubled):
        for image, row, whole in zip(ids, rows, good, strict=True):
            if image not in stays or (whole and not stays[image][2]):
                stays[image] = (place.path, row, whole)
    removed = 0
    for place, rows, ids, _ in _rows_of(output, doubled):
        gone = [row for image, row in zip(ids, rows, strict=True) if stays[image][:2] != (place.path, row)]
        removed += _rewrite(output, place, partial(_without, rows=gone)) if gone else 0
    return removed


def remove_errors(output: Place) -> int:
    """Removes the rows of images that failed, which are then owed again; the number removed."""
    removed = 0
    for place in output.join("results").list(".parquet"):
        column = pq.read_table(place.path, filesystem=place.arrow(), columns=["error"])["error"]
        if column.null_count < len(column):
            removed += _rewrite(output, place, _without_errors)
    return removed


def move_to_replaced(output: Place, name: str) -> int:
    """Moves all results files to replaced/<name>/; the number moved.

    Each is there before it goes here, so that nothing is lost wherever this is cut short.
    """
    files = output.join("results").list(".parquet")
    for place in files:
        to = output.join("replaced", name, place.name)
        to.put(place.fs.cat_file(place.path), temporary_folder(output))
        place.fs.rm_file(place.path)
    return len(files)


def _without(table: pa.Table, rows: list[int]) -> pa.Table:
    return table.filter(pa.array(~np.isin(np.arange(len(table)), rows)))


def _without_errors(table: pa.Table) -> pa.Table:
    return table.filter(pc.is_null(table["error"]))


def _rows_of(output: Place, images: np.ndarray) -> Iterator[tuple[Place, list[int], list[int], list[bool]]]:
    """(file, row numbers, ids, whether each has no error) of the rows of some images, of files that have any."""
    for place in output.join("results").list(".parquet"):
        table = pq.read_table(place.path, filesystem=place.arrow(), columns=["image_id", "error"])
        rows = np.flatnonzero(np.isin(table["image_id"].to_numpy(), images))
        if len(rows):
            here = table.take(rows)
            yield place, rows.tolist(), here["image_id"].to_pylist(), pc.is_null(here["error"]).to_pylist()


def _rewrite(output: Place, place: Place, change: Callable[[pa.Table], pa.Table]) -> int:
    """Replaces a file by a change of its table; the rows it has fewer. A file without rows goes."""
    table = pq.read_table(place.path, filesystem=place.arrow())
    left = change(table)
    if len(left):
        buffer = io.BytesIO()
        pq.write_table(left, buffer, compression="zstd")
        place.put(buffer.getvalue(), temporary_folder(output))
    else:
        place.fs.rm_file(place.path)
    return len(table) - len(left)
