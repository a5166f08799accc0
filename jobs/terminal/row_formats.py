"""Writes rows of a query as a table, CSV or JSON."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from decimal import Decimal
from itertools import islice
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.terminal.console import USAGE, console, err, fail

MAX_ROWS = 50  # of a table
MAX_CELL = 48  # characters of a cell of a table


def write_table(names: list[str], rows: Iterator[tuple[Any, ...]]) -> None:
    """Prints the first rows on the terminal."""
    shown = list(islice(rows, MAX_ROWS + 1))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(names):
        numeric = all(isinstance(row[i], int | float | Decimal | None) for row in shown)
        # On a narrow terminal, text is shortened and numbers stay whole.
        table.add_column(Text(name), justify="right" if numeric else "left", no_wrap=numeric, overflow="ellipsis")
    for row in shown[:MAX_ROWS]:
        table.add_row(*(Text(_cell(value), no_wrap=True, overflow="ellipsis") for value in row))
    wide = Console(file=console.file, width=10_000, highlight=False)  # a pipe or a file has no width
    (console if console.is_terminal else wide).print(table)
    if len(shown) > MAX_ROWS:
        err.print(f"only the first {MAX_ROWS} rows are shown: --format csv or --to FILE gives all", soft_wrap=True)


def _cell(value: Any) -> str:
    """A value as short text; masks and long lists are cut and end in an ellipsis."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        value = "[" + ", ".join(_cell(v) for v in value[:MAX_CELL]) + "]"
    text = "" if value is None else str(value)
    return text if len(text) <= MAX_CELL or "\n" in text else text[: MAX_CELL - 1] + "…"


def write_csv(names: list[str], rows: Iterator[tuple[Any, ...]], file: TextIO) -> None:
    """Writes CSV as in RFC 4180, except that lines end in \\n. Lists and structs are JSON within their cell."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([json.dumps(_plain(v)) if isinstance(v, list | dict) else v for v in row] for row in rows)


def write_json(names: list[str], rows: Iterator[tuple[Any, ...]], file: TextIO) -> None:
    """Writes a JSON array with one object per row, each on a separate line."""
    if len(set(names)) < len(names):
        fail("two columns have the same name: rename one of them (select a as b)", USAGE)
    file.write("[")
    for number, row in enumerate(rows):
        file.write(("\n" if number == 0 else ",\n") + json.dumps(dict(zip(names, _plain(list(row)), strict=True))))
    file.write("\n]\n")


def _plain(value: Any) -> Any:
    """A value as JSON can hold it; NaN and infinity become null."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Decimal():  # DuckDB returns sums of integers as decimals without a fraction
            return int(value) if value == value.to_integral_value() else float(value)
        case list() | tuple():
            return [_plain(v) for v in value]
        case dict():
            return {k: _plain(v) for k, v in value.items()}
        case bytes():
            return value.hex()
    return str(value)
