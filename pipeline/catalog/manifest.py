"""Reads manifests: lists of image addresses.

A manifest is a text file with one address per line, or a table with a column of addresses (CSV, JSON lines, Parquet).
"""

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
from pipeline.storage import Place, explain
from pipeline.storage.containers import parquet_images
from pipeline.storage.containers.table_columns import choose_column
from pipeline.storage.object_file import ObjectError, ObjectFile
from pipeline.storage.suffixes import input_kind

SUFFIXES = (".txt", ".csv", ".jsonl", ".parquet")
# Names that a column of addresses usually has; they decide if a table has several columns of strings.
USUAL = ("uri", "url", "path", "file", "file_name", "filename", "key", "image", "image_uri", "image_url", "image_path")
ROLE = "a column of addresses"
BATCH = 10_000  # rows of a Parquet manifest that are read at once


def manifest_suffix(name: str) -> str | None:
    """Returns the suffix by which a file may be a manifest; None if it cannot be one."""
    return next((s for s in SUFFIXES if name.lower().endswith(s)), None)


def lists_addresses(table: Place, column: str | None) -> bool:
    """Tells whether a file with a manifest's suffix holds addresses of images. A Parquet file may hold images instead.

    Args:
        table: the file.
        column: the column that the user asked for.

    Raises:
        InputError: the column holds neither addresses nor images, or the store cannot be read.
    """
    if manifest_suffix(table.url) != ".parquet":
        return True
    try:
        with _open(table) as file:
            schema = pq.read_schema(pa.PythonFile(file, "r"))
    except ObjectError as error:
        raise explain(table.url, error.__cause__ or error) from None
    except (pa.ArrowException, OSError):
        return False  # a damaged file becomes an error row of the catalog
    images, strings = parquet_images.image_columns(schema), _string_columns(schema)
    if column is None:
        return not images and bool(strings)
    if column in (*images, *strings):
        return column in strings
    listed = ", ".join((*images, *strings)) or "none"
    raise InputError(f"{table.url}: column {column!r} holds neither images nor addresses; these columns do: {listed}")


def read_addresses(table: Place, column: str | None) -> Iterator[str]:
    """Reads the addresses of a manifest in order. Relative addresses are resolved against its folder.

    Args:
        table: the manifest.
        column: the column of addresses; None finds it.

    Raises:
        InputError: the manifest cannot be read, or the column does not exist or is ambiguous.
    """
    suffix = manifest_suffix(table.url)
    read = {".txt": _read_text, ".csv": _read_csv, ".jsonl": _read_json, ".parquet": _read_parquet}[suffix or ".txt"]
    try:
        with _open(table) as file:
            for entry in read(table, file, column):
                if entry and entry.strip():
                    yield _absolute(table, entry.strip())
    except ObjectError as error:
        raise explain(table.url, error.__cause__ or error) from None
    except (UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise InputError(f"{table.url}: not a valid {suffix} manifest: {error}") from None


def _open(table: Place) -> io.BufferedReader:
    try:
        return io.BufferedReader(ObjectFile(table, table.size()))
    except InputError:
        raise
    except Exception as error:  # the error type depends on the store
        raise explain(table.url, error) from None


def _read_text(table: Place, file: io.BufferedReader, column: str | None) -> Iterator[str]:
    if column is not None:
        raise InputError(f"{table.url}: --column {column} needs a table, but this is a text file of addresses")
    yield from (line for line in _lines(file) if not line.startswith("#"))


def _read_csv(table: Place, file: io.BufferedReader, column: str | None) -> Iterator[str]:
    """Reads a CSV with or without a header. A first row that holds an address is not a header."""
    rows = csv.reader(_lines(file))
    first = next(rows, [])
    index = next((i for i, cell in enumerate(first) if "://" in cell or input_kind(cell.strip()) == "image"), None)
    if index is None or column is not None:
        index = first.index(choose_column(table.url, ROLE, first, column, USUAL))
    else:
        yield first[index]
    yield from (row[index] for row in rows if len(row) > index)


def _read_json(table: Place, file: io.BufferedReader, column: str | None) -> Iterator[str]:
    for number, line in enumerate(_lines(file), 1):
        if not line.strip():
            continue
        try:
            value: Any = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{table.url}: line {number} is not JSON: {error}") from None
        if isinstance(value, dict):
            strings = [key for key, v in value.items() if isinstance(v, str)]
            column = column or choose_column(table.url, ROLE, strings, None, USUAL)
            value = value.get(column)
        if not isinstance(value, str):
            missing = f"no string {column!r}" if column else "no string"
            raise InputError(f"{table.url}: line {number} has {missing}; name the column of addresses with --column")
        yield value


def _read_parquet(table: Place, file: io.BufferedReader, column: str | None) -> Iterator[str]:
    with pq.ParquetFile(pa.PythonFile(file, "r"), pre_buffer=False) as parquet:
        name = choose_column(table.url, ROLE, _string_columns(parquet.schema_arrow), column, USUAL)
        for batch in parquet.iter_batches(BATCH, columns=[name]):
            yield from (value for value in batch.column(0).to_pylist() if value is not None)


def _string_columns(schema: pa.Schema) -> list[str]:
    def is_string(kind: pa.DataType) -> bool:
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)

    return [f.name for f in schema if is_string(f.type)]


def _lines(file: io.BufferedReader) -> Iterator[str]:
    return iter(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""))


def _absolute(table: Place, entry: str) -> str:
    if "://" in entry or (table.protocol == "file" and entry.startswith("/")):
        return entry
    protocol, separator, rest = table.url.rpartition("://")
    return protocol + separator + posixpath.normpath(f"{rest.rpartition('/')[0]}/{entry}")
