"""Reading an output from storage alone, while a job runs or long after: no Ray, no state but the files.

Counts come from Parquet footers. Rows come through a pyarrow dataset or DuckDB views that read only the
columns a query names.
"""

from __future__ import annotations

import glob
import json
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from pipeline.errors import InputError
from pipeline.schema import RESULTS, description_of
from pipeline.storage import Place, explain

T = TypeVar("T")
READERS = 16  # footers read at once; the work is waiting for a store

# Unnesting an index, and not the lists side by side, lets DuckDB leave out the columns that a query does
# not name: parallel unnests are one operator that reads them all. `category_id` is the smallest list.
INSTANCES = """
CREATE VIEW instances AS
SELECT image_id, uri, width, height, category_id[i] AS category_id, category[i] AS category, score[i] AS score,
       bbox[i][1] AS bbox_x, bbox[i][2] AS bbox_y, bbox[i][3] AS bbox_w, bbox[i][4] AS bbox_h,
       area[i] AS area, rle[i] AS rle
FROM (SELECT *, unnest(generate_series(1, len(category_id))) AS i FROM images WHERE error IS NULL)
"""
ERRORS = """
CREATE VIEW errors AS
SELECT image_id, uri, error, split_part(error, ':', 1) AS kind,
       ltrim(substr(error, length(split_part(error, ':', 1)) + 2)) AS reason
FROM images WHERE error IS NOT NULL
"""


@dataclass(frozen=True)
class Counts:
    """How far a job is.

    Attributes:
        catalogued: images asked for.
        done: images that have their row, failed ones included.
        failed: rows with an error.
        left: catalogued, without a row.
        instances: in all rows; None if a file was written without column statistics.
        errors: failed rows by kind (the text before the first colon), most frequent first.
    """

    catalogued: int
    done: int
    failed: int
    left: int
    instances: int | None
    errors: dict[str, int]


def results_dataset(output: Place) -> pads.Dataset:
    """The results as one dataset, in the schema `RESULTS`; files are read when the dataset is.

    Raises:
        InputError: there are no results (yet), this is no output, or it cannot be read.
    """
    paths = _results(output)
    return pads.dataset(paths, schema=RESULTS, filesystem=output.arrow(), format="parquet")


def counts(output: Place) -> Counts:
    """How far the job is, from footers and, where a file has errors, its column `error`.

    Raises:
        InputError: this is no output, or it cannot be read.
    """
    catalog = [f.num_rows for f in _map(_footer, _list(output, "catalog")) if f is not None]
    tallies = [t for t in _map(_tally, _list(output, "results")) if t is not None]
    if not catalog and not tallies:
        raise _nothing(output)
    errors: Counter[str] = sum((t.errors for t in tallies), Counter())
    done, catalogued = sum(t.rows for t in tallies), sum(catalog)
    instances = [t.instances for t in tallies]
    return Counts(
        catalogued=catalogued,
        done=done,
        failed=errors.total(),
        left=max(catalogued - done, 0),
        instances=None if None in instances else sum(i for i in instances if i is not None),
        errors=dict(errors.most_common()),
    )


def description(output: Place) -> dict[str, Any]:
    """What the metadata of a results file says: schema version, classes, weights, preset, thresholds.

    Raises:
        InputError: there are no results (yet), this is no output, or it cannot be read.
    """
    for place in _list(output, "results"):
        if (footer := _footer(place)) is not None:
            return description_of(footer.schema.to_arrow_schema())
    raise _nothing(output)


def run_records(output: Place) -> list[dict[str, Any]]:
    """The records of the runs that ended, oldest first.

    Raises:
        InputError: they cannot be read.
    """
    records = []
    for place in _list(output, "runs", ".json"):
        try:
            records.append(json.loads(place.fs.cat_file(place.path)))
        except Exception as error:  # every store has errors of its own
            raise explain(place.url, error) from None
    return sorted(records, key=lambda r: str(r.get("started", "")))


def connect(output: Place) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB with three views of the results as they are now.

    `images`: a row an image, all columns of `RESULTS`. `instances`: a row an instance of the segmented
    images (image_id, uri, width, height, category_id, category, score, bbox_x, bbox_y, bbox_w, bbox_h,
    area, rle). `errors`: a row a failed image (image_id, uri, error, kind, reason).

    Raises:
        InputError: there are no results (yet), this is no output, or it cannot be read.
    """
    paths = _results(output)
    connection = duckdb.connect()
    if output.protocol == "file" and not any(glob.has_magic(p) for p in paths):
        # DuckDB's own reader skips row groups by their statistics; it would take [ and * for a pattern.
        listed = ", ".join("'" + p.replace("'", "''") + "'" for p in paths)
        connection.execute(f"CREATE VIEW images AS SELECT * FROM read_parquet([{listed}])")
    else:
        connection.register("images", results_dataset(output))
    connection.execute(INSTANCES)
    connection.execute(ERRORS)
    return connection


@dataclass(frozen=True)
class _Tally:
    rows: int
    instances: int | None
    errors: Counter[str]


def _tally(place: Place) -> _Tally | None:
    """The counts of one results file; None if it is not whole."""
    if (metadata := _footer(place)) is None:
        return None
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    chunks = [{(c := g.column(i)).path_in_schema: c for i in range(g.num_columns)} for g in groups]
    # A list column stores a value for each element, and a null for each list that is empty or null.
    areas = [next(c for name, c in g.items() if name.startswith("area.")) for g in chunks]
    known = all(c.statistics is not None and c.statistics.has_null_count for c in areas)
    instances = sum(c.num_values - c.statistics.null_count for c in areas) if known else None
    failing = [i for i, g in enumerate(chunks) if not _all_null(g["error"])]
    errors: Counter[str] = Counter()
    if failing:
        with pq.ParquetFile(place.path, filesystem=place.arrow(), metadata=metadata) as file:
            texts = file.read_row_groups(failing, columns=["error"])["error"].drop_null().to_pylist()
        errors.update(text.split(":", 1)[0] for text in texts)
    return _Tally(metadata.num_rows, instances, errors)


def _all_null(chunk: pq.ColumnChunkMetaData) -> bool:
    """Whether statistics say that a flat column chunk holds nothing but nulls."""
    return bool(chunk.statistics is not None and chunk.statistics.null_count == chunk.num_values)


def _results(output: Place) -> list[str]:
    """Paths of the results files that are whole.

    An object in a store is visible only when it is complete; a file on a disk also while it is written.
    """
    places = _list(output, "results")
    if output.protocol == "file":
        footers = _map(_footer, places)
        places = [p for p, footer in zip(places, footers, strict=True) if footer is not None]
    if not places:
        raise _nothing(output)
    return [p.path for p in places]


def _nothing(output: Place) -> InputError:
    """Why there is nothing to read."""
    if any(_list(output, folder, "") for folder in ("catalog", "results", "runs")):
        return InputError(f"{output.url} holds no results yet: wait for the first, or run maskfleet segment again")
    return InputError(
        f"{output.url} is no output of maskfleet segment (it has no catalog/ and no results/): "
        f"check the spelling, or make it with: maskfleet segment INPUT {output.url}"
    )


def _list(output: Place, folder: str, suffix: str = ".parquet") -> list[Place]:
    """The files of a folder of the output; none if it does not exist."""
    try:
        return output.join(folder).list(suffix)
    except InputError:
        raise
    except Exception as error:  # every store has errors of its own
        raise explain(output.url, error) from None


def _footer(place: Place) -> pq.FileMetaData | None:
    """The footer of a Parquet file; None if it is not whole yet or was replaced since it was listed."""
    try:
        return pq.read_metadata(place.path, filesystem=place.arrow())
    except (pa.ArrowInvalid, FileNotFoundError):
        return None
    except Exception as error:  # every store has errors of its own
        raise explain(place.url, error) from None


def _map(function: Callable[[Place], T | None], places: Iterable[Place]) -> list[T | None]:
    """The function of each file, in order, many at once."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(function, places))
