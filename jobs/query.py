"""`maskfleet query`: SQL over the results, by DuckDB."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from decimal import Decimal
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TextIO

import duckdb
import pyarrow as pa
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.terminal.console import USAGE, StorageOptions, console, err, errors_to_exit, fail, print_json, storage_options
from pipeline.analysis.sql import connect
from pipeline.storage import place

ROWS, CELL = 50, 48  # of a table on the terminal: rows, and characters of a cell
VIEWS = ("images", "instances", "errors")


class Format(StrEnum):
    """How the rows are written."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


class _SqlError(Exception):
    """DuckDB's reason, in its first line."""


@errors_to_exit
def query(
    output: Annotated[str, typer.Argument(help="The OUTPUT of `maskfleet segment`, a folder or URL.")],
    sql: Annotated[
        str | None, typer.Argument(help="DuckDB SQL. Without it: the views, their columns and row counts.")
    ] = None,
    form: Annotated[
        Format | None, typer.Option("--format", help="Default: by the suffix of --to, else a table.")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Write this file instead of the terminal.", dir_okay=False)] = None,
    storage_option: StorageOptions = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Query the results with SQL.

    There are three views: images (a row an image, with lists of its instances), instances (a row an instance) and
    errors (a row a failed image). Masks are COCO RLE: `rle` is the counts, the size is (height, width).

    [bold]Examples[/]

    maskfleet query masks/ "select category, count(*), avg(area) from instances where score > 0.7 group by all"

    maskfleet query masks/ "select uri, len(score) as n from images order by n desc limit 10"

    maskfleet query s3://lab/masks "select * from instances where area > 5000" --to large.parquet
    """
    chosen = _format(form, to, as_json)
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


def _format(form: Format | None, to: Path | None, as_json: bool) -> Format:
    """The format that the options say together."""
    if as_json and form not in (None, Format.json):
        fail(f"--json and --format {form} contradict each other", USAGE)
    if as_json:
        return Format.json
    if form is None and to is not None:
        try:
            form = Format(to.suffix.lower().lstrip("."))
        except ValueError:
            fail(f"--to {to}: name it .csv, .json or .parquet, or say --format", USAGE)
    if form is Format.parquet and to is None:
        fail("--format parquet needs a file: add --to FILE.parquet", USAGE)
    if form is Format.table and to is not None:
        fail("a table goes to the terminal; --to takes csv, json or parquet", USAGE)
    return form or Format.table


def _run(connection: duckdb.DuckDBPyConnection, sql: str, form: Format, to: Path | None) -> None:
    """Executes the statement and writes its rows as they come."""
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
    rows = _rows(reader)
    if form is Format.table:
        _write_table(names, rows)
        return
    try:
        target = open(to, "w", encoding="utf-8", newline="") if to else nullcontext(sys.stdout)  # noqa: SIM115
    except OSError as error:
        fail(f"--to {to}: {error.strerror}", USAGE)
    with target as file:
        (_write_csv if form is Format.csv else _write_json)(names, rows, file)


def _rows(reader: pa.RecordBatchReader) -> Iterator[tuple[Any, ...]]:
    """The rows as Python values, one batch at a time in memory."""
    while True:
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            return
        except (OSError, pa.ArrowException) as error:  # what DuckDB's errors are while its rows stream
            raise _SqlError(_first_line(error)) from None
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _write_table(names: list[str], rows: Iterator[tuple[Any, ...]]) -> None:
    """The first rows on the terminal."""
    shown = list(islice(rows, ROWS + 1))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(names):
        numeric = all(isinstance(row[i], int | float | Decimal | None) for row in shown)
        # Where the terminal is narrow, text gives way and numbers stay whole.
        table.add_column(Text(name), justify="right" if numeric else "left", no_wrap=numeric, overflow="ellipsis")
    for row in shown[:ROWS]:
        table.add_row(*(Text(_cell(value), no_wrap=True, overflow="ellipsis") for value in row))
    wide = Console(file=console.file, width=10_000, highlight=False)  # a pipe or a file has no width to fit in
    (console if console.is_terminal else wide).print(table)
    if len(shown) > ROWS:
        err.print(f"only the first {ROWS} rows: --format csv or --to FILE gives all", soft_wrap=True)


def _cell(value: Any) -> str:
    """A value as short text; masks and long lists end in an ellipsis."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        value = "[" + ", ".join(_cell(v) for v in value[:CELL]) + "]"
    text = "" if value is None else str(value)
    return text if len(text) <= CELL or "\n" in text else text[: CELL - 1] + "…"


def _write_csv(names: list[str], rows: Iterator[tuple[Any, ...]], file: TextIO) -> None:
    """RFC 4180 but for the line ends; lists and structs as JSON in their cell."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([json.dumps(_plain(v)) if isinstance(v, list | dict) else v for v in row] for row in rows)


def _write_json(names: list[str], rows: Iterator[tuple[Any, ...]], file: TextIO) -> None:
    """A JSON array with an object a row, each on a line of its own."""
    if len(set(names)) < len(names):
        fail("two columns have one name: give one of them another (select a as b)", USAGE)
    file.write("[")
    for number, row in enumerate(rows):
        file.write(("\n" if number == 0 else ",\n") + json.dumps(dict(zip(names, _plain(list(row)), strict=True))))
    file.write("\n]\n")


def _plain(value: Any) -> Any:
    """A value as JSON has it; NaN and infinity, which it has not, as null."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Decimal():  # sums of integers come as decimals without a fraction
            return int(value) if value == value.to_integral_value() else float(value)
        case list() | tuple():
            return [_plain(v) for v in value]
        case dict():
            return {k: _plain(v) for k, v in value.items()}
        case bytes():
            return value.hex()
    return str(value)


def _show_views(connection: duckdb.DuckDBPyConnection, as_json: bool) -> None:
    """The views, their columns and how many rows they have."""
    counted = {v: connection.sql(f"SELECT count(*) FROM {v}").fetchall()[0][0] for v in VIEWS}
    columns = {v: _columns(connection, v) for v in VIEWS}
    if as_json:
        print_json({v: {"rows": counted[v], "columns": columns[v]} for v in VIEWS})
        return
    for view in VIEWS:
        table = Table(title=f"{view}: {counted[view]:,} rows", title_justify="left", box=None, show_header=False)
        for name, kind in columns[view].items():
            table.add_row(name, Text(kind, style="dim"))
        console.print(table)


def _columns(connection: duckdb.DuckDBPyConnection, view: str) -> dict[str, str]:
    """DuckDB's types of a view's columns, by name."""
    relation = connection.view(view)
    return dict(zip(relation.columns, map(str, relation.types), strict=True))


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


if __name__ == "__main__":
    typer.run(query)
