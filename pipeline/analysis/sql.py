"""SQL over the results: a DuckDB connection with the views `images`, `instances` and `errors`.

A query reads only the columns that it names.
"""

from __future__ import annotations

import glob

import duckdb

from pipeline.output.output_files import complete_results
from pipeline.storage import Place

# The view unnests an index and not the lists side by side. Parallel unnests are one operator that reads all
# columns; this way DuckDB reads only the columns that a query names. `category_id` is the smallest list.
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


def connect(output: Place) -> duckdb.DuckDBPyConnection:
    """Opens an in-memory DuckDB with three views of the results as they are now.

    `images` has one row per image and all columns of `RESULTS`. `instances` has one row per instance of the
    images that succeeded: image_id, uri, width, height, category_id, category, score, bbox_x, bbox_y, bbox_w, bbox_h
    (original pixels), area, rle. `errors` has one row per failed image: image_id, uri, error, kind, reason.

    Raises:
        InputError: there are no results yet, this is not an output, or it cannot be read.
    """
    paths = [file.path for file in complete_results(output)]
    connection = duckdb.connect()
    if output.protocol == "file" and not any(glob.has_magic(p) for p in paths):
        # DuckDB's own reader skips row groups by their statistics. It would read [ and * in a path as a pattern.
        listed = ", ".join("'" + p.replace("'", "''") + "'" for p in paths)
        connection.execute(f"CREATE VIEW images AS SELECT * FROM read_parquet([{listed}])")
    else:
        from pipeline.analysis.reader import results_dataset  # pyarrow.dataset imports pandas

        connection.register("images", results_dataset(output))
    connection.execute(INSTANCES)
    connection.execute(ERRORS)
    return connection
