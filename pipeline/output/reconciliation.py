"""Reconciles the results of an output with its catalog, before a run and after each plan.

The catalog lists the images that the inputs of this run and of earlier ones name. The results list the images that are
segmented or failed. Both are files in storage, so running the same command again continues a job that was killed at any
point.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from pipeline.catalog import catalog, inputs
from pipeline.catalog.id_set import NO_IDS
from pipeline.catalog.shard_index import IndexOptions
from pipeline.errors import InputError
from pipeline.observer import JobObserver
from pipeline.options import Options
from pipeline.output import results
from pipeline.output.description import difference, read_description
from pipeline.storage import Place, place
from pipeline.storage.suffixes import IMAGE_SUFFIXES


def prepare_output(
    options: Options, description: dict[str, Any], record: dict[str, Any], observer: JobObserver
) -> np.ndarray:
    """Prepares an output for a run.

    All checks come before any row that an image needs is moved or removed. If the user answers "no", nothing changes.
    If an INPUT is mistyped, only partial files and duplicate rows are removed:

    1. Compare the settings of the existing results with the new ones, and ask for confirmation if they differ.
    2. Clean the results: delete partial files and duplicate rows.
    3. List the inputs and bring the catalog up to date. This fails if an input cannot be used.
    4. Only then move results of other settings to replaced/<run id>/, or delete error rows for `retry_errors`.
    5. If rows were removed, update the catalog again. It keeps an image that its shard no longer holds only while
       that image has a row.

    A job that is killed between two steps loses nothing: every step is idempotent, and the next run repeats them.

    Args:
        options: options of the job.
        description: description of the results that this run will write; see `pipeline.output.description`.
        record: run record with the id of the run as `run`. The function adds `catalogued` and, where they apply,
            `files_set_aside`, `errors_retried` and `doubles_removed`.
        observer: shows the steps and asks for confirmation.

    Returns:
        int64, sorted: ids of the images that have a row and keep it.

    Raises:
        InputError: an input or the output cannot be used, the results were made with other settings and
            `overwrite` is not set, or the user did not confirm.
    """
    output, run_id = options.output, record["run"]
    replace = _confirm_move(options, description, run_id, observer)
    done = clean_results(output, record)
    record["catalogued"] = update_catalog(options, output, done, observer)
    if replace:
        observer.phase(f"moving the existing results to replaced/{run_id}")
        record["files_set_aside"] = results.move_to_replaced(output, run_id)
    if options.retry_errors:
        record["errors_retried"] = results.remove_errors(output)
    if replace or options.retry_errors:
        done = results.done_ids(output)
        record["catalogued"] = catalog.update(output, [], done)
    return done


def clean_results(output: Place, record: dict[str, Any]) -> np.ndarray:
    """Deletes partial files and duplicate rows, so that each image has at most one row.

    Args:
        output: root of the output.
        record: run record; the number of removed rows is added to `doubles_removed`.

    Returns:
        int64, sorted: ids of the images that have a row.
    """
    results.remove_partial_files(output)
    done = results.done_ids(output)
    if removed := results.remove_duplicates(output, done):
        record["doubles_removed"] = record.get("doubles_removed", 0) + removed
        done = np.unique(done)
    return done


@dataclass(frozen=True)
class DryRun:
    """What a run would start from.

    Attributes:
        catalog_root: the place that holds catalog/ as the run would have it: a copy in a temporary folder.
        done: int64, sorted: ids of the images that have a row and would keep it.
        rows: number of images that have a row now.
        conflict: why all results would be moved to replaced/; empty if they would stay.
    """

    catalog_root: Place
    done: np.ndarray
    rows: int
    conflict: str


@contextmanager
def dry_run(options: Options, description: dict[str, Any], observer: JobObserver) -> Iterator[DryRun]:
    """Finds out what `prepare_output` would do. It works on a copy of the catalog and only reads the output.

    Raises:
        InputError: an input or the output cannot be used, or the results were made with other settings and
            `overwrite` is not set.
    """
    output = options.output
    conflict = _settings_conflict(options, description)
    rows = np.unique(results.done_ids(output))
    done = NO_IDS if conflict else np.unique(results.done_ids(output, options.retry_errors))
    with TemporaryDirectory(prefix="maskfleet-") as folder:
        root = place(folder)
        for file in output.join("catalog").list(".parquet"):
            root.join("catalog", file.name).put(file.fs.cat_file(file.path))
        update_catalog(options, root, done, observer)
        yield DryRun(root, done, len(rows), conflict)


def update_catalog(options: Options, root: Place, done: np.ndarray, observer: JobObserver) -> int:
    """Lists the inputs and brings a catalog up to date with them.

    Args:
        options: options of the job.
        root: the place that holds catalog/: the output, or a copy for a dry run.
        done: int64, sorted: ids of images that stay in the catalog even if their shard no longer has them.
        observer: shows the progress.

    Returns:
        Number of images in the catalog.

    Raises:
        InputError: an input cannot be used or holds no images.
    """
    observer.phase("listing inputs")
    found = inputs.find_containers(options.inputs, options.output, options.pattern, options.column)
    observer.phase("cataloguing")
    index = IndexOptions(options.pattern, options.column, options.output.options)
    total = catalog.update(root, found, done, index, observer.catalog_progress)
    if not total:
        raise InputError(f"the shards under the INPUTs hold no images; looked for {' '.join(IMAGE_SUFFIXES)}")
    return total


def _confirm_move(options: Options, description: dict[str, Any], run_id: str, observer: JobObserver) -> bool:
    """Asks the user to confirm if results of other settings must be moved. Returns whether they must be.

    Raises:
        InputError: the settings differ, and `overwrite` is not set or the user declined.
    """
    conflict = _settings_conflict(options, description)
    target = options.output.join("replaced", run_id).url
    if conflict and not observer.confirm(f"{conflict}. Move them to {target} and start again from nothing?"):
        raise InputError(f"{options.output.url}: nothing was changed")
    return bool(conflict)


def _settings_conflict(options: Options, description: dict[str, Any]) -> str:
    """Says how the settings of existing results differ; empty if they agree or there are no results.

    Raises:
        InputError: they differ and `overwrite` is not set.
    """
    try:
        different = difference(read_description(options.output), description)
    except InputError:  # no results yet
        return ""
    conflict = f"{options.output.url} holds results of other settings ({different})"
    if different and not options.overwrite:
        raise InputError(f"{conflict}: choose another OUTPUT, or move them away with --overwrite")
    return conflict if different else ""
