"""Lists of images' addresses: a text file of one a line, or a column of a table (CSV, JSON lines, Parquet)."""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError
from pipeline.storage import Place, explain, parquet_images
from pipeline.storage.object_file import ObjectError, ObjectFile
from pipeline.storage.suffixes import input_kind
from pipeline.storage.table_columns import choose_column

SUFFIXES = (".txt", ".csv", ".jsonl", ".parquet")
USUAL = ("uri", "url", "path", "file", "file_name", "filename", "key", "image", "image_uri", "image_url", "image_path")
OF = "a column of addresses"


def suffix(name: str) -> str | None:
    """The suffix with which a name may be a manifest's."""
    return next((s for s in SUFFIXES if name.lower().endswith(s)), None)


def names_images(table: Place, column: str | None) -> bool:
    """Whether a table holds addresses of images, and not images.

    Raises:
        InputError: it holds neither in the column asked for.
    """
    if suffix(table.url) != ".parquet":
        return True
    try:
        with _opened(table) as file:
            schema = pq.read_schema(pa.PythonFile(file, "r"))
    except ObjectError as error:
        raise explain(table.url, error.__cause__ or error) from None
    except (pa.ArrowException, OSError):
        return False  # a damaged file is a row of the catalog
    images, strings = parquet_images.image_columns(schema), _strings(schema)
    if column is None:
        return not images and bool(strings)
    if column in (*images, *strings):
        return column in strings
    listed = ", ".join((*images, *strings)) or "none"
    raise InputError(f"{table.url}: column {column!r} holds neither images nor addresses; these do: {listed}")


def addresses(table: Place, column: str | None) -> Iterator[str]:
    """The addresses a manifest lists, in order; relative ones are made absolute against its folder.

    Raises:
        InputError: the manifest cannot be read, or has no such column.
    """
    read = {".txt": _text, ".csv": _csv, ".jsonl": _json, ".parquet": _parquet}[suffix(table.url) or ".txt"]
    try:
        with _opened(table) as file:
            for entry in read(table, file, column):
                if entry and entry.strip():
                    yield _absolute(table, entry.strip())
    except ObjectError as error:
        raise explain(table.url, error.__cause__ or error) from None
    except (UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise InputError(f"{table.url}: no {suffix(table.url)} manifest: {error}") from None


def _opened(table: Place) -> io.BufferedReader:
    try:
        return io.BufferedReader(ObjectFile(table, table.size()))
    except InputError:
        raise
    except Exception as error:  # every store has errors of its own
        raise explain(table.url, error) from None


def _text(table: Place, file: io.BufferedReader, column: str | None) -> Iterator[str]:
    if column is not None:
        raise InputError(f"{table.url}: --column {column} is of a table; this is a list of one address a line")
    yield from (line for line in _lines(file) if not line.startswith("#"))


def _csv(table: Place, file: io.BufferedReader, column: str | None) -> Iterator[str]:
    rows = csv.reader(_lines(file))
    first = next(rows, [])
    index = next((i for i, cell in enumerate(first) if "://" in cell or input_kind(cell.strip()) == "image"), None)
    if index is None or column is not None:  # the first row names the columns
        index = first.index(choose_column(table.url, OF, first, column, USUAL))
    else:
        yield first[index]
    yield from (row[index] for row in rows if len(row) > index)


def _json(table: Place, file: io.BufferedReader, column: str | None) -> Iterator[str]:
    for number, line in enumerate(_lines(file), 1):
        if not line.strip():
            continue
        try:
            value: Any = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{table.url}: line {number} is not JSON: {error}") from None
        if isinstance(value, dict):
            strings = [key for key, v in value.items() if isinstance(v, str)]
            column = column or choose_column(table.url, OF, strings, None, USUAL)
            value = value.get(column)
        if not isinstance(value, str):
            what = f"no string {column!r}" if column else "no string"
            raise InputError(f"{table.url}: line {number} has {what}; name the column of addresses with --column")
        yield value


def _parquet(table: Place, file: io.BufferedReader, column: str | None) -> Iterator[str]:
    with pq.ParquetFile(pa.PythonFile(file, "r"), pre_buffer=False) as parquet:
        name = choose_column(table.url, OF, _strings(parquet.schema_arrow), column, USUAL)
        for batch in parquet.iter_batches(10_000, columns=[name]):
            yield from (value for value in batch.column(0).to_pylist() if value is not None)


def _strings(schema: pa.Schema) -> list[str]:
    def is_string(kind: pa.DataType) -> bool:
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)

    return [f.name for f in schema if is_string(f.type)]


def _lines(file: io.BufferedReader) -> Iterator[str]:
    return iter(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""))


def _absolute(table: Place, entry: str) -> str:
    if "://" in entry or (table.protocol == "file" and entry.startswith("/")):
        return entry
    protocol, mark, rest = table.url.rpartition("://")
    return protocol + mark + posixpath.normpath(f"{rest.rpartition('/')[0]}/{entry}")
