"""Original bytes of catalogued images, for pictures and pages of results."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from pipeline.errors import InputError
from pipeline.fetch import fetched
from pipeline.schema import CATALOG
from pipeline.storage import Place

PATIENCE = 10.0  # seconds; somebody waits for the picture


def image_bytes(output: Place, ids: Sequence[int]) -> list[bytes]:
    """The stored bytes of images by their `image_id`, in the order asked for.

    Raises:
        InputError: an id is not in the catalog, or its bytes cannot be read any more.
    """
    table = _rows(output, ids)
    place_in_shard = [(name, "ascending") for name in ("container", "part", "offset")]
    found: dict[int, bytes] = {}
    for part in fetched(table.sort_by(place_in_shard), output.options, PATIENCE):
        for row in part.to_pylist():
            if row["error"] is not None:
                raise InputError(f"{row['uri']}: {row['error']}")
            found[row["image_id"]] = row["data"]
    return [found[i] for i in ids]


def _rows(output: Place, ids: Sequence[int]) -> pa.Table:
    """The catalog's rows of images."""
    files = output.join("catalog").list(".parquet")
    if not files:
        raise InputError(f"{output.url} has no catalog: it is no output of `maskfleet segment`")
    catalog = pads.dataset([p.path for p in files], schema=CATALOG, filesystem=output.arrow(), format="parquet")
    table = catalog.to_table(filter=pc.field("image_id").isin(pa.array(ids, pa.int64())))
    if missing := set(ids) - set(table["image_id"].to_pylist()):
        raise InputError(f"{output.url}: image_id {missing.pop()} is not in the catalog")
    return table
