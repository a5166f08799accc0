"""`maskfleet query`: SQL over the results with DuckDB."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from jobs.terminal.console import USAGE, StorageOptions, console, errors_to_exit, fail, print_json, storage_options
from jobs.terminal.row_formats import write_csv, write_json, write_table

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

VIEWS = ("images", "instances", "errors")


class Format(StrEnum):
    """The format of the rows."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


class _SqlError(Exception):
    """The first line of an error of DuckDB."""


@errors_to_exit
def query(
    output: Annotated[str, typer.Argument(help="The OUTPUT of `maskfleet segment`, a folder or URL.")],
    sql: Annotated[
        str | None,
        typer.Argument(help="A statement in DuckDB's SQL. Without one, the views, their columns and row counts."),
    ] = None,
    form: Annotated[
        Format | None,
        typer.Option("--format", help="Format of the rows. Default: from the suffix of --to, otherwise a table."),
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Write to this file, not to the terminal.", dir_okay=False)] = None,
    storage_option: StorageOptions = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Query the results with SQL.

    There are three views: images (one row per image, with lists of its
    instances), instances (one row per instance) and errors (one row per failed
    image). Masks are COCO RLE: `rle` holds the counts, the size is (height,
    width).

    [bold]Examples[/]

    maskfleet query masks/ "select category, count(*), avg(area) from instances where score > 0.7 group by all"

    maskfleet query masks/ "select uri, len(score) as n from images order by n desc limit 10"

    maskfleet query s3://lab/masks "select * from instances where area > 5000" --to large.parquet
    """
    chosen = _choose_format(form, to, as_json)
    from pipeline.analysis.sql import connect
    from pipeline.storage import place

    connection = connect(place(output, storage_options(storage_option)))
    try:
        if sql is None:
            _show_views(connection, as_json=chosen is Format.json)
        else:
            _run(connection, sql, chosen, to)
    except _SqlError as error:
        columns = "\n".join(f"  {view}: {', '.join(_columns(connection, view))}" for view in VIEWS)
        fail(f"{error}\nthe views and their columns are\n{columns}", USAGE)
    finally:
        connection.close()


def _choose_format(form: Format | None, to: Path | None, as_json: bool) -> Format:
    """Combines --format, --to and --json; exits if they contradict each other."""
    if as_json and form not in (None, Format.json):
        fail(f"--json and --format {form} contradict each other", USAGE)
    if as_json:
        return Format.json
    if form is None and to is not None:
        try:
            form = Format(to.suffix.lower().lstrip("."))
        except ValueError:
            fail(f"--to {to}: use a name that ends in .csv, .json or .parquet, or add --format", USAGE)
    if form is Format.parquet and to is None:
        fail("--format parquet needs a file: add --to FILE.parquet", USAGE)
    if form is Format.table and to is not None:
        fail("a table can only go to the terminal; --to takes csv, json or parquet", USAGE)
    return form or Format.table


def _run(connection: duckdb.DuckDBPyConnection, sql: str, form: Format, to: Path | None) -> None:
    """Executes a statement and writes its rows batch by batch."""
    import duckdb
    import pyarrow as pa

    try:
        relation = connection.sql(sql)
        if relation is None:
            raise _SqlError("there is no SQL statement")
        if form is Format.parquet:
            relation.write_parquet(str(to), compression="zstd")
            return
        names = list(relation.columns)
        reader = pa.RecordBatchReader.from_stream(relation)
    except duckdb.Error as error:
        raise _SqlError(_first_line(error)) from None
    rows = _read_rows(reader)
    if form is Format.table:
        write_table(names, rows)
        return
    try:
        target = open(to, "w", encoding="utf-8", newline="") if to else nullcontext(sys.stdout)  # noqa: SIM115
    except OSError as error:
        fail(f"--to {to}: {error.strerror}", USAGE)
    with target as file:
        (write_csv if form is Format.csv else write_json)(names, rows, file)


def _read_rows(reader: pa.RecordBatchReader) -> Iterator[tuple[Any, ...]]:
    """Yields the rows as Python values, with one batch in memory at a time."""
    import pyarrow as pa

    while True:
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            return
        except (OSError, pa.ArrowException) as error:  # DuckDB's errors arrive as these while its rows stream
            raise _SqlError(_first_line(error)) from None
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _show_views(connection: duckdb.DuckDBPyConnection, as_json: bool) -> None:
    """Prints the views with their columns and row counts."""
    counts = {v: connection.sql(f"SELECT count(*) FROM {v}").fetchall()[0][0] for v in VIEWS}
    columns = {v: _columns(connection, v) for v in VIEWS}
    if as_json:
        print_json({v: {"rows": counts[v], "columns": columns[v]} for v in VIEWS})
        return
    for view in VIEWS:
        table = Table(title=f"{view}: {counts[view]:,} rows", title_justify="left", box=None, show_header=False)
        for name, type_ in columns[view].items():
            table.add_row(name, Text(type_, style="dim"))
        console.print(table)


def _columns(connection: duckdb.DuckDBPyConnection, view: str) -> dict[str, str]:
    """DuckDB's types of the columns of a view, by name."""
    relation = connection.view(view)
    return dict(zip(relation.columns, map(str, relation.types), strict=True))


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


if __name__ == "__main__":
    typer.run(query)
