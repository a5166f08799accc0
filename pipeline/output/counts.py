"""Counts how far a job is, from the Parquet footers of its output."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pyarrow.parquet as pq

from pipeline.output.output_files import list_files, map_files, no_results, read_footer
from pipeline.storage import Place


@dataclass(frozen=True)
class Counts:
    """How far a job is.

    Attributes:
        catalogued: images in the catalog.
        done: images that have a row in the results, including those that failed.
        failed: rows with an error.
        left: images in the catalog that have no row yet.
        instances: instances in all rows; None if a file was written without column statistics.
        errors: failed rows by error kind (the text before the first colon), most frequent first.
    """

    catalogued: int
    done: int
    failed: int
    left: int
    instances: int | None
    errors: dict[str, int]


def counts(output: Place) -> Counts:
    """Counts the images of an output.

    It reads footers only. Where a file has errors, it also reads the column `error`.

    Raises:
        InputError: this is not an output, or it cannot be read.
    """
    catalog = [f.num_rows for f in map_files(read_footer, list_files(output, "catalog")) if f is not None]
    files = [c for c in map_files(_count_file, list_files(output, "results")) if c is not None]
    if not catalog and not files:
        raise no_results(output)
    errors: Counter[str] = sum((c.errors for c in files), Counter())
    done, catalogued = sum(c.rows for c in files), sum(catalog)
    instances = [c.instances for c in files]
    return Counts(
        catalogued=catalogued,
        done=done,
        failed=errors.total(),
        left=max(catalogued - done, 0),
        instances=None if None in instances else sum(i for i in instances if i is not None),
        errors=dict(errors.most_common()),
    )


@dataclass(frozen=True)
class _FileCounts:
    rows: int
    instances: int | None
    errors: Counter[str]


def _count_file(place: Place) -> _FileCounts | None:
    """Counts one results file; None if it is not complete."""
    if (metadata := read_footer(place)) is None:
        return None
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    chunks = [{(c := g.column(i)).path_in_schema: c for i in range(g.num_columns)} for g in groups]
    # A list column stores one value for each element, and one null for each list that is empty or null.
    areas = [next(c for name, c in g.items() if name.startswith("area.")) for g in chunks]
    known = all(c.statistics is not None and c.statistics.has_null_count for c in areas)
    instances = sum(c.num_values - c.statistics.null_count for c in areas) if known else None
    with_errors = [i for i, g in enumerate(chunks) if not _all_null(g["error"])]
    errors: Counter[str] = Counter()
    if with_errors:
        with pq.ParquetFile(place.path, filesystem=place.arrow(), metadata=metadata) as file:
            texts = file.read_row_groups(with_errors, columns=["error"])["error"].drop_null().to_pylist()
        errors.update(text.split(":", 1)[0] for text in texts)
    return _FileCounts(metadata.num_rows, instances, errors)


def _all_null(chunk: pq.ColumnChunkMetaData) -> bool:
    """Tells from the statistics whether a flat column chunk holds only nulls."""
    return bool(chunk.statistics is not None and chunk.statistics.null_count == chunk.num_values)
