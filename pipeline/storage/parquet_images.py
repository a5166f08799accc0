"""Images in a column of a Parquet file: plain bytes, or a struct of bytes and path as datasets on the Hub have."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.storage.table_columns import choose_column

OF = "columns of images (bytes, or a struct with bytes)"
USUAL = ("image", "img", "jpg", "jpeg", "png", "webp", "tif", "tiff", "picture", "photo", "image_bytes")
BUFFER = 8 << 20  # bytes at once of a column
ROWS = 8  # of images decoded from a column at once


@dataclass(frozen=True)
class Group:
    """A row group: the column of images, its rows and bytes, and their file names if it has any."""

    column: str
    rows: int
    bytes: int
    names: list[str | None] | None


def image_columns(schema: pa.Schema) -> list[str]:
    """Columns that may hold images."""
    return [f.name for f in schema if _is_binary(f.type) or _child(f.type, "bytes") is not None]


def column_of(where: str, schema: pa.Schema, column: str | None) -> str | None:
    """The column of images: the one asked for, or the one that the file's own metadata or its name tells.

    Returns:
        None if no column can hold images.

    Raises:
        InputError: the one asked for does not, or several may; the error lists them.
    """
    found = image_columns(schema)
    if not found:
        return None
    declared = [name for name in found if name in _declared(schema)]
    if column is None and len(declared) == 1:
        return declared[0]
    return choose_column(where, OF, found, column, USUAL)


def row_groups(file: io.RawIOBase, where: str, column: str | None) -> Iterator[Group]:
    """Each row group of a file; none if it has no column of images.

    Raises:
        InputError: the column cannot be told.
        pa.ArrowException, OSError: no Parquet file, or a damaged one.
    """
    with _open(file) as parquet:
        schema = parquet.schema_arrow
        name = column_of(where, schema, column)
        if name is None:
            return
        path = f"{name}.path" if _child(schema.field(name).type, "path") is not None else None
        for g in range(parquet.num_row_groups):
            group = parquet.metadata.row_group(g)
            chunks = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
            names = None
            if path is not None:
                structs = parquet.read_row_group(g, columns=[path], use_threads=False).column(0)
                names = [s["path"] if s else None for s in structs.to_pylist()]
            yield Group(name, group.num_rows, chunks[_leaf(schema, name)].total_uncompressed_size, names)


def read_rows(
    file: io.RawIOBase, column: str, wanted: Mapping[int, Mapping[int, int]]
) -> Iterator[tuple[int, bytes | None]]:
    """(key, bytes) of rows, in order; each row group is read once, from end to end.

    Args:
        wanted: by row group, the key of each row.

    Raises:
        pa.ArrowException, OSError, LookupError: a damaged file, or another than was catalogued.
    """
    with _open(file) as parquet:
        leaf = _leaf(parquet.schema_arrow, column)
        for group in sorted(wanted):
            at, keys = 0, wanted[group]
            for batch in parquet.iter_batches(ROWS, row_groups=[group], columns=[leaf], use_threads=False):
                values = batch.column(0)
                values = values if leaf == column else pa.StructArray.flatten(values)[0]
                for i in np.flatnonzero([at + i in keys for i in range(len(values))]):
                    yield keys[at + int(i)], values[int(i)].as_py()
                at += len(values)


def _open(file: io.RawIOBase) -> pq.ParquetFile:
    return pq.ParquetFile(pa.PythonFile(file, "r"), buffer_size=BUFFER, pre_buffer=False)


def _leaf(schema: pa.Schema, column: str) -> str:
    return column if _is_binary(schema.field(column).type) else f"{column}.bytes"


def _is_binary(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _child(kind: pa.DataType, name: str) -> pa.Field | None:
    """A struct's field that can hold an image's bytes or its path."""
    index = kind.get_field_index(name) if pa.types.is_struct(kind) else -1
    field = kind.field(index) if index >= 0 else None
    if field is None or (name == "bytes" and not _is_binary(field.type)):
        return None
    return field


def _declared(schema: pa.Schema) -> set[str]:
    """Columns that a dataset of the Hub declares to be images."""
    with suppress(ValueError, LookupError, AttributeError, TypeError):
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {name for name, feature in features.items() if feature.get("_type") == "Image"}
    return set()
