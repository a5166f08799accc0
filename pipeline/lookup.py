"""Original bytes of catalogued images, for pictures and pages of results."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from pipeline.errors import InputError
from pipeline.storage import Place, explain


def image_bytes(output: Place, ids: Sequence[int]) -> list[bytes]:
    """The stored bytes of images by their `image_id`, in the order asked for.

    Raises:
        InputError: an id is not in the catalog, or its bytes cannot be read any more.
    """
    files = output.join("catalog").list(".parquet")
    if not files:
        raise InputError(f"{output.url} has no catalog: it is no output of `maskfleet segment`")
    catalog = pads.dataset([p.path for p in files], filesystem=output.arrow(), format="parquet")
    table = catalog.to_table(filter=pc.field("image_id").isin(pa.array(ids, pa.int64())))
    rows = {row["image_id"]: row for row in table.to_pylist()}
    if missing := [i for i in ids if i not in rows]:
        raise InputError(f"{output.url}: image_id {missing[0]} is not in the catalog")
    return [_read(rows[i], output) for i in ids]


def _read(row: dict, output: Place) -> bytes:
    source = Place(row["container"], output.options)
    try:
        return source.fs.cat_file(source.path, start=row["offset"], end=row["offset"] + row["length"])
    except Exception as error:  # every store has errors of its own
        raise explain(row["uri"], error) from None
