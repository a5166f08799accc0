"""The results files: which images are done, and the few changes that are made to existing files.

Ray Data writes each file in two phases: it writes the ids as a pending checkpoint, then the data file, then renames
the pending checkpoint. So once the data files of pending checkpoints are deleted, everything under results/ has been
committed, and reading the column `image_id` gives the images that are done.

An existing file is only replaced as a whole. A reader sees the old file or the new one, and a job that is killed
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

from pipeline.catalog.id_set import NO_IDS
from pipeline.storage import Place
from pipeline.storage.atomic_files import temporary_folder

PENDING = f"{PENDING_CHECKPOINT_SUFFIX}.parquet"


def remove_partial_files(output: Place) -> int:
    """Deletes the data files of pending checkpoints, the pending checkpoints, and temporary files.

    A data file is deleted before the checkpoint that names it, so a clean-up that is interrupted is repeated.

    Returns:
        Number of pending checkpoints.
    """
    pending = output.join("_checkpoint").list(PENDING)
    files = output.join("results").list("") if pending else []
    for checkpoint in pending:
        stem = checkpoint.name.removesuffix(PENDING)
        for file in files:
            if file.name.startswith(stem) and file.name[len(stem)] in ".-":
                file.fs.rm_file(file.path)
        checkpoint.fs.rm_file(checkpoint.path)
    for part in temporary_folder(output).list(""):
        part.fs.rm_file(part.path)
    return len(pending)


def done_ids(output: Place, without_errors: bool = False) -> np.ndarray:
    """Reads which images have a row. Call `remove_partial_files` first.

    Args:
        output: root of the output.
        without_errors: leave out images that failed.

    Returns:
        int64, sorted: one id per row, so an image with two rows occurs twice.
    """
    results = output.join("results")
    files = [p.path for p in results.list(".parquet")]
    if not files:
        return NO_IDS
    rows = pc.field("error").is_null() if without_errors else None
    table = pads.dataset(files, filesystem=results.arrow(), format="parquet").to_table(["image_id"], rows)
    return np.sort(table["image_id"].to_numpy())


def remove_duplicates(output: Place, done: np.ndarray) -> int:
    """Leaves each image one row: one without an error if there is one.

    Duplicates occur when Ray gives up a task and starts it again elsewhere, but the first one writes its file after
    all.

    Args:
        output: root of the output.
        done: what `done_ids` returned.

    Returns:
        Number of rows removed.
    """
    duplicated = np.unique(done[1:][done[1:] == done[:-1]])
    if not len(duplicated):
        return 0
    chosen: dict[int, tuple[str, int, bool]] = {}  # by id: file, row number, whether the row has no error
    for file, rows, ids, successes in _find_rows(output, duplicated):
        for image, row, success in zip(ids, rows, successes, strict=True):
            if image not in chosen or (success and not chosen[image][2]):
                chosen[image] = (file.path, row, success)
    removed = 0
    for file, rows, ids, _ in _find_rows(output, duplicated):
        unwanted = [row for image, row in zip(ids, rows, strict=True) if chosen[image][:2] != (file.path, row)]
        removed += _rewrite(output, file, partial(_without_rows, rows=unwanted)) if unwanted else 0
    return removed


def remove_errors(output: Place) -> int:
    """Removes the rows of images that failed, so that they are tried again. Returns the number of rows removed."""
    removed = 0
    for file in output.join("results").list(".parquet"):
        column = pq.read_table(file.path, filesystem=file.arrow(), columns=["error"])["error"]
        if column.null_count < len(column):
            removed += _rewrite(output, file, _without_errors)
    return removed


def move_to_replaced(output: Place, name: str) -> int:
    """Moves all results files to replaced/<name>/. Returns the number of files moved.

    Each file is copied before it is deleted, so an interruption loses nothing.
    """
    files = output.join("results").list(".parquet")
    for file in files:
        copy = output.join("replaced", name, file.name)
        copy.put(file.fs.cat_file(file.path), temporary_folder(output))
        file.fs.rm_file(file.path)
    return len(files)


def _without_rows(table: pa.Table, rows: list[int]) -> pa.Table:
    return table.filter(pa.array(~np.isin(np.arange(len(table)), rows)))


def _without_errors(table: pa.Table) -> pa.Table:
    return table.filter(pc.is_null(table["error"]))


def _find_rows(output: Place, images: np.ndarray) -> Iterator[tuple[Place, list[int], list[int], list[bool]]]:
    """(file, row numbers, ids, whether each row has no error) of each file that has rows of some images."""
    for file in output.join("results").list(".parquet"):
        table = pq.read_table(file.path, filesystem=file.arrow(), columns=["image_id", "error"])
        rows = np.flatnonzero(np.isin(table["image_id"].to_numpy(), images))
        if len(rows):
            found = table.take(rows)
            yield file, rows.tolist(), found["image_id"].to_pylist(), pc.is_null(found["error"]).to_pylist()


def _rewrite(output: Place, file: Place, change: Callable[[pa.Table], pa.Table]) -> int:
    """Replaces a file by a changed copy, or deletes it if no row is left. Returns how many rows fewer it has."""
    table = pq.read_table(file.path, filesystem=file.arrow())
    changed = change(table)
    if len(changed):
        buffer = io.BytesIO()
        pq.write_table(changed, buffer, compression="zstd")
        file.put(buffer.getvalue(), temporary_folder(output))
    else:
        file.fs.rm_file(file.path)
    return len(table) - len(changed)
