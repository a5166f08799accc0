"""Original bytes of catalogued images, for pictures and pages of results."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from pipeline.errors import InputError
from pipeline.schema import CATALOG
from pipeline.storage import Place, explain
from pipeline.storage.original_bytes import fetch_images

RETRY_SECONDS = 10.0  # seconds; somebody waits for the picture


def image_bytes(output: Place, ids: Sequence[int]) -> list[bytes]:
    """The stored bytes of images by their `image_id`, in the order asked for.

    Raises:
        InputError: an id is not in the catalog, or its bytes cannot be read any more.
    """
    table = _rows(output, ids)
    place_in_shard = [(name, "ascending") for name in ("container", "part", "offset")]
    found: dict[int, bytes] = {}
    for part in fetch_images(table.sort_by(place_in_shard), output.options, RETRY_SECONDS):
        for row in part.to_pylist():
            if row["error"] is not None:
                raise InputError(f"{row['uri']}: {row['error']}")
            found[row["image_id"]] = row["data"]
    return [found[i] for i in ids]


def file_addresses(output: Place) -> dict[int, str]:
    """Addresses that end in the image's file name, by `image_id`, where its `uri` does not: of rows of Parquet files.

    Raises:
        InputError: the catalog cannot be read.
    """
    named = pc.field("name").is_valid()
    columns = ["image_id", "container", "name"]
    table = _catalog(output).to_table(columns=columns, filter=named) if _files(output) else None
    return {} if table is None else {r["image_id"]: f"{r['container']}/{r['name']}" for r in table.to_pylist()}


def _rows(output: Place, ids: Sequence[int]) -> pa.Table:
    """The catalog's rows of images."""
    if not _files(output):
        raise InputError(f"{output.url} has no catalog: it is no output of `maskfleet segment`")
    table = _catalog(output).to_table(filter=pc.field("image_id").isin(pa.array(ids, pa.int64())))
    if missing := set(ids) - set(table["image_id"].to_pylist()):
        raise InputError(f"{output.url}: image_id {missing.pop()} is not in the catalog")
    return table


def _files(output: Place) -> list[str]:
    try:
        return [p.path for p in output.join("catalog").list(".parquet")]
    except InputError:
        raise
    except Exception as error:  # every store has errors of its own
        raise explain(output.url, error) from None


def _catalog(output: Place) -> pads.Dataset:
    return pads.dataset(_files(output), schema=CATALOG, filesystem=output.arrow(), format="parquet")
