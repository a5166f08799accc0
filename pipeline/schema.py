"""The two tables of an output, column by column, and the id that joins them."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pyarrow as pa

VERSION = 1
METADATA_KEY = b"maskfleet"  # of the Parquet files: JSON of `describe`

RESULTS = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("width", pa.int32()),  # pixels of the stored image; null if never decoded
        pa.field("height", pa.int32()),
        pa.field("error", pa.string()),  # null: segmented; else "Class: reason"
        pa.field("category_id", pa.list_(pa.int16())),
        pa.field("category", pa.list_(pa.dictionary(pa.int32(), pa.string()))),
        pa.field("score", pa.list_(pa.float32())),  # descending
        pa.field("bbox", pa.list_(pa.list_(pa.float32(), 4))),  # x, y, width, height; original pixels
        pa.field("area", pa.list_(pa.int64())),  # mask pixels
        pa.field("rle", pa.list_(pa.string())),  # COCO compressed counts; size is [height, width]
    ]
)

CATALOG = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("container", pa.string(), nullable=False),  # URL of the object that holds the bytes
        pa.field("kind", pa.string(), nullable=False),  # of the container: image, tar, tgz, parquet
        pa.field("part", pa.int32()),  # row group of a Parquet file
        pa.field("column", pa.string()),  # of a Parquet file
        pa.field("offset", pa.int64(), nullable=False),  # bytes from the start, of a tgz unpacked; row of a row group
        pa.field("length", pa.int64()),  # bytes; of a Parquet row its row group's mean; null: nobody asked
        pa.field("name", pa.string()),  # file name, where the URI does not tell it
        pa.field("version", pa.string(), nullable=False),  # of the container: etag, or time of change
        pa.field("error", pa.string()),  # why the bytes cannot be read at all, if that is known already
    ]
)


def image_id(uri: str) -> int:
    """A stable id of an image's address: the first 63 bits of its BLAKE2b, so never negative."""
    return int.from_bytes(hashlib.blake2b(uri.encode(), digest_size=8).digest(), "big") >> 1


def printable(name: str) -> str:
    """A name whose bytes are no UTF-8, as text that is; other names as they are."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def with_description(schema: pa.Schema, description: dict[str, Any]) -> pa.Schema:
    """The schema with a description in its metadata (schema version, classes, weights, thresholds)."""
    text = json.dumps({"schema_version": VERSION, **description})
    return schema.with_metadata({METADATA_KEY: text.encode()})


def description_of(schema: pa.Schema) -> dict[str, Any]:
    """Returns the description in the metadata of a schema; an empty dict if it has none."""
    return json.loads((schema.metadata or {}).get(METADATA_KEY, b"{}"))
