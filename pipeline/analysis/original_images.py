"""Reads the original bytes and file names of catalogued images."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from pipeline.errors import InputError
from pipeline.output.output_files import list_files
from pipeline.schema import CATALOG
from pipeline.storage import Place
from pipeline.storage.original_bytes import fetch_images

RETRY_SECONDS = 10.0  # short, because a person waits for the picture


def image_bytes(output: Place, ids: Sequence[int]) -> list[bytes]:
    """Reads the stored bytes of images.

    Args:
        output: root of the output.
        ids: `image_id` of each image.

    Returns:
        The bytes in the order of `ids`.

    Raises:
        InputError: an id is not in the catalog, or its bytes cannot be read any more.
    """
    table = _catalog_rows(output, ids)
    order = [(name, "ascending") for name in ("container", "part", "offset")]  # neighbours share a request
    data: dict[int, bytes] = {}
    for part in fetch_images(table.sort_by(order), output.options, RETRY_SECONDS):
        for row in part.to_pylist():
            if row["error"] is not None:
                raise InputError(f"{row['uri']}: {row['error']}")
            data[row["image_id"]] = row["data"]
    return [data[i] for i in ids]


def file_addresses(output: Place) -> dict[int, str]:
    """Returns addresses that end in the image's file name, for images whose `uri` does not: rows of Parquet shards.

    Returns:
        Container and file name, joined by "/", by `image_id`.

    Raises:
        InputError: the catalog cannot be read.
    """
    files = _catalog_files(output)
    if not files:
        return {}
    columns = ["image_id", "container", "name"]
    table = _catalog(output, files).to_table(columns=columns, filter=pc.field("name").is_valid())
    return {r["image_id"]: f"{r['container']}/{r['name']}" for r in table.to_pylist()}


def _catalog_rows(output: Place, ids: Sequence[int]) -> pa.Table:
    files = _catalog_files(output)
    if not files:
        raise InputError(f"{output.url} has no catalog: it is not an output of maskfleet segment")
    table = _catalog(output, files).to_table(filter=pc.field("image_id").isin(pa.array(ids, pa.int64())))
    if missing := set(ids) - set(table["image_id"].to_pylist()):
        raise InputError(f"{output.url}: image_id {missing.pop()} is not in the catalog")
    return table


def _catalog_files(output: Place) -> list[str]:
    return [file.path for file in list_files(output, "catalog")]


def _catalog(output: Place, files: list[str]) -> pads.Dataset:
    return pads.dataset(files, schema=CATALOG, filesystem=output.arrow(), format="parquet")
