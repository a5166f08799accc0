"""The account of an output: what has its row, and what is asked for.

Before anything that is there is changed, everything is checked: settings are compared and the change confirmed,
the inputs listed and catalogued. So a mistyped INPUT or a "no" costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from pipeline.catalog import catalog, inputs
from pipeline.errors import InputError
from pipeline.observer import JobObserver
from pipeline.options import Options, difference
from pipeline.output import results
from pipeline.output.reader import description
from pipeline.storage import Place, place
from pipeline.storage.suffixes import IMAGE_SUFFIXES


def opened(
    options: Options, described: dict[str, Any], run_id: str, record: dict[str, Any], observer: JobObserver
) -> np.ndarray:
    """Readies an output for a run: checks first, then puts aside and drops what is asked for.

    Args:
        record: of the run, for what is found and changed.

    Returns:
        int64, sorted: the images that have their row and keep it.

    Raises:
        InputError: an input or the output cannot be used, the results are of other settings, or it was not
            confirmed to put them aside.
    """
    output = options.output
    aside = _agreed(options, described, run_id, observer)
    done = settled(output, record)
    record["catalogued"] = catalogued(options, output, done, observer)
    if aside:
        observer.phase(f"moving the results that are there to replaced/{run_id}")
        record["files_set_aside"] = results.set_aside(output, run_id)
    if options.retry_errors:
        record["errors_retried"] = results.drop_errors(output)
    if aside or options.retry_errors:
        done = results.done_ids(output)
        record["catalogued"] = catalog.update(output, [], done)  # for what was kept because it had a row
    return done


def settled(output: Place, record: dict[str, Any]) -> np.ndarray:
    """The images that have their row, each exactly one, in whole files."""
    results.clean(output)
    done = results.done_ids(output)
    if doubles := results.remove_doubles(output, done):
        record["doubles_removed"] = record.get("doubles_removed", 0) + doubles
        done = np.unique(done)
    return done


@dataclass(frozen=True)
class Trial:
    """What a run would find and do.

    Attributes:
        ledger: the catalog as it would be lies under it.
        done: int64, sorted: the images that have their row and would keep it.
        rows: that there are now.
        aside: why all of them would be put aside; empty if they would not.
    """

    ledger: Place
    done: np.ndarray
    rows: int
    aside: str


@contextmanager
def tried(options: Options, described: dict[str, Any], observer: JobObserver) -> Iterator[Trial]:
    """What `opened` would do, found out on a copy of the catalog; the output itself is only read.

    Raises:
        InputError: an input or the output cannot be used, or the results are of other settings and not to be
            put aside.
    """
    output = options.output
    aside = _conflict(options, described)
    rows = np.unique(results.done_ids(output))
    done = catalog.NONE if aside else np.unique(results.done_ids(output, options.retry_errors))
    with TemporaryDirectory(prefix="maskfleet-") as folder:
        ledger = place(folder)
        for file in output.join("catalog").list(".parquet"):
            ledger.join("catalog", file.name).put(file.fs.cat_file(file.path))
        catalogued(options, ledger, done, observer)
        yield Trial(ledger, done, len(rows), aside)


def catalogued(options: Options, ledger: Place, done: np.ndarray, observer: JobObserver) -> int:
    """Brings a catalog up to date with the inputs; the images in it.

    Args:
        ledger: the catalog lies under it; the output, but for a plan.
        done: int64, sorted ids of images that stay in it even if their shard no longer has them.

    Raises:
        InputError: an input cannot be used or holds no images.
    """
    observer.phase("listing inputs")
    found = inputs.containers(options.inputs, options.output, options.pattern, options.column)
    observer.phase("cataloguing")
    total = catalog.update(
        ledger,
        found,
        done,
        pattern=options.pattern,
        column=options.column,
        options=options.output.options,
        report=observer.reading,
    )
    if not total:
        raise InputError(f"the shards under the INPUTs hold no images; looked for {' '.join(IMAGE_SUFFIXES)}")
    return total


def _agreed(options: Options, described: dict[str, Any], run_id: str, observer: JobObserver) -> bool:
    """Whether results are there that are to be put aside, as they are of other settings.

    Raises:
        InputError: they are, and it was not asked or not confirmed.
    """
    aside = _conflict(options, described)
    to = options.output.join("replaced", run_id).url
    if aside and not observer.confirm(f"{aside}. Move them to {to} and begin anew?"):
        raise InputError(f"{options.output.url}: nothing was changed")
    return bool(aside)


def _conflict(options: Options, described: dict[str, Any]) -> str:
    """That there are results of other settings, and which those are; empty if there are none.

    Raises:
        InputError: there are, and `overwrite` is not set.
    """
    try:
        different = difference(description(options.output), described)
    except InputError:  # no results yet
        return ""
    told = f"{options.output.url} holds results of other settings ({different})"
    if different and not options.overwrite:
        raise InputError(f"{told}: choose another OUTPUT, or put them aside with --overwrite")
    return told if different else ""
