"""Images in a column of a Parquet file: plain bytes, or a struct of bytes and path as in datasets on the Hub."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.storage.containers.table_columns import choose_column

CONTENT = "a column of images (bytes, or a struct with bytes)"  # for errors
USUAL_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp", "tif", "tiff", "picture", "photo", "image_bytes")
BUFFER_BYTES = 8 << 20  # of a column, read at once
DECODED_ROWS = 8  # rows of images that pyarrow decodes at once


@dataclass(frozen=True)
class RowGroup:
    """What the catalog needs of a row group.

    Attributes:
        column: the column of images.
        rows: number of rows.
        bytes: of the column of images, uncompressed.
        names: file name of each row, where the column is a struct with a path; else None.
    """

    column: str
    rows: int
    bytes: int
    names: list[str | None] | None


def image_columns(schema: pa.Schema) -> list[str]:
    """Returns the columns that may hold images, by their type."""
    return [f.name for f in schema if _is_binary(f.type) or _struct_field(f.type, "bytes") is not None]


def choose_image_column(where: str, schema: pa.Schema, requested: str | None) -> str | None:
    """Returns the column of images: the requested one, or the one that the file's metadata or the names suggest.

    Args:
        where: address of the file, for the error.
        schema: of the file.
        requested: the column that the user named (--column), or None.

    Returns:
        None if no column can hold images.

    Raises:
        InputError: the requested column cannot hold images, or several columns can; the error lists them.
    """
    candidates = image_columns(schema)
    if not candidates:
        return None
    declared = [name for name in candidates if name in _declared_columns(schema)]
    if requested is None and len(declared) == 1:
        return declared[0]
    return choose_column(where, CONTENT, candidates, requested, USUAL_NAMES)


def row_groups(file: io.RawIOBase, where: str, requested: str | None) -> Iterator[RowGroup]:
    """Yields each row group of a file; nothing if it has no column of images.

    Reads the footer and, where there are any, the column of paths.

    Raises:
        InputError: the column of images is ambiguous.
        pa.ArrowException, OSError: the file is damaged, or not a Parquet file.
    """
    with _open(file) as parquet:
        schema = parquet.schema_arrow
        column = choose_image_column(where, schema, requested)
        if column is None:
            return
        path = f"{column}.path" if _struct_field(schema.field(column).type, "path") is not None else None
        for number in range(parquet.num_row_groups):
            group = parquet.metadata.row_group(number)
            chunks = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
            names = None
            if path is not None:
                structs = parquet.read_row_group(number, columns=[path], use_threads=False).column(0)
                names = [s["path"] if s else None for s in structs.to_pylist()]
            yield RowGroup(column, group.num_rows, chunks[_bytes_path(schema, column)].total_uncompressed_size, names)


def read_rows(
    file: io.RawIOBase, column: str, wanted: Mapping[int, Mapping[int, int]]
) -> Iterator[tuple[int, bytes | None]]:
    """Yields (key, bytes) of rows in their order. Each row group is read once, from start to end.

    Args:
        file: a Parquet file.
        column: the column of images.
        wanted: for each row group, {row within the group: key}.

    Raises:
        pa.ArrowException, OSError, LookupError: the file is damaged, or changed since it was catalogued.
    """
    with _open(file) as parquet:
        leaf = _bytes_path(parquet.schema_arrow, column)
        for group in sorted(wanted):
            first_row, keys = 0, wanted[group]
            for batch in parquet.iter_batches(DECODED_ROWS, row_groups=[group], columns=[leaf], use_threads=False):
                values = batch.column(0)
                values = values if leaf == column else pa.StructArray.flatten(values)[0]
                for i in np.flatnonzero([first_row + i in keys for i in range(len(values))]):
                    yield keys[first_row + int(i)], values[int(i)].as_py()
                first_row += len(values)


def _open(file: io.RawIOBase) -> pq.ParquetFile:
    return pq.ParquetFile(pa.PythonFile(file, "r"), buffer_size=BUFFER_BYTES, pre_buffer=False)


def _bytes_path(schema: pa.Schema, column: str) -> str:
    """Returns the path in the schema of the bytes in a column of images."""
    return column if _is_binary(schema.field(column).type) else f"{column}.bytes"


def _is_binary(dtype: pa.DataType) -> bool:
    dtype = dtype.value_type if pa.types.is_dictionary(dtype) else dtype
    return pa.types.is_binary(dtype) or pa.types.is_large_binary(dtype) or pa.types.is_binary_view(dtype)


def _struct_field(dtype: pa.DataType, name: str) -> pa.Field | None:
    """Returns the field "bytes" or "path" of a struct, if it has one of a fitting type."""
    index = dtype.get_field_index(name) if pa.types.is_struct(dtype) else -1
    field = dtype.field(index) if index >= 0 else None
    if field is None or (name == "bytes" and not _is_binary(field.type)):
        return None
    return field


def _declared_columns(schema: pa.Schema) -> set[str]:
    """Returns the columns that the metadata of a dataset on the Hub declares to be images."""
    with suppress(ValueError, LookupError, AttributeError, TypeError):
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {name for name, feature in features.items() if feature.get("_type") == "Image"}
    return set()
