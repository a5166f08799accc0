"""The two tables of an output, column by column, and the id that joins them.

To add a column to the results:

1. Add its field to `RESULTS`.
2. Fill it in `pipeline.stages.encode`: for images that succeed, and null for images that fail.
3. A list column with one value per instance also goes into the view `instances` of `pipeline.analysis.sql`.
4. Describe it in the table of the README, and give it a value in `tests/support/results.py`.

Writing, counting, the dataset of `pipeline.analysis.reader` and the view `images` follow the schema. The dataset reads
a column that older files lack as null.

To add a column to the catalog, add it to `CATALOG`, fill it in `pipeline.catalog.shard_index`, and see
`catalog_files._read` for catalogs of older versions.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pyarrow as pa

VERSION = 1
METADATA_KEY = b"maskfleet"  # key in the metadata of the Parquet files; the value is JSON

RESULTS = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("width", pa.int32()),  # pixels of the stored image; null if never decoded
        pa.field("height", pa.int32()),
        pa.field("error", pa.string()),  # null if the image succeeded, else "kind: reason"
        pa.field("category_id", pa.list_(pa.int16())),
        pa.field("category", pa.list_(pa.dictionary(pa.int32(), pa.string()))),
        pa.field("score", pa.list_(pa.float32())),  # descending
        pa.field("bbox", pa.list_(pa.list_(pa.float32(), 4))),  # x, y, width, height in pixels of the stored image
        pa.field("area", pa.list_(pa.int64())),  # mask pixels
        pa.field("rle", pa.list_(pa.string())),  # COCO compressed counts; size is [height, width]
    ]
)

CATALOG = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("container", pa.string(), nullable=False),  # address of the object that holds the bytes
        pa.field("kind", pa.string(), nullable=False),  # kind of the container: image, tar, tgz or parquet
        pa.field("part", pa.int32()),  # row group of a Parquet file
        pa.field("column", pa.string()),  # column of a Parquet file
        pa.field("offset", pa.int64(), nullable=False),  # byte (uncompressed in a tgz) or row in a row group
        pa.field("length", pa.int64()),  # bytes; for Parquet the mean of the row group; null if not known
        pa.field("name", pa.string()),  # file name, if the URI does not end in it
        pa.field("version", pa.string(), nullable=False),  # version of the container: its etag or time of change
        pa.field("error", pa.string()),  # why the bytes cannot be read, if that is already known
    ]
)


def image_id(uri: str) -> int:
    """Returns the id of an image: the first 63 bits of the BLAKE2b hash of its address, so it is never negative."""
    return int.from_bytes(hashlib.blake2b(uri.encode(), digest_size=8).digest(), "big") >> 1


def printable(name: str) -> str:
    """Returns a file name as valid text: bytes that are not UTF-8 become backslash escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def with_description(schema: pa.Schema, description: dict[str, Any]) -> pa.Schema:
    """Returns the schema with the schema version and a description in its metadata."""
    text = json.dumps({"schema_version": VERSION, **description})
    return schema.with_metadata({METADATA_KEY: text.encode()})


def description_of(schema: pa.Schema) -> dict[str, Any]:
    """Returns what `with_description` put into the metadata; an empty dict if there is nothing."""
    return json.loads((schema.metadata or {}).get(METADATA_KEY, b"{}"))
