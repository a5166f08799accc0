"""The catalog rows of a shard: a row each image in it, from its headers or its footer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.catalog.inputs import Container
from pipeline.errors import InputError
from pipeline.schema import CATALOG, image_id, printable
from pipeline.storage import Place, explain, parquet_images, tar
from pipeline.storage.object_file import ObjectError, ObjectFile
from pipeline.storage.suffixes import input_kind

CHUNK = 10_000  # rows that are Python objects at once
DAMAGE = (*tar.DAMAGE_ERRORS, pa.ArrowException, OSError, LookupError)
Row = dict[str, Any]  # columns of CATALOG, without those that all rows of a container share


def loose(containers: Iterable[Container]) -> pa.Table:
    """Images that are objects of their own, a row each."""
    shared = {"kind": "image", "offset": 0}
    rows = [
        {"image_id": image_id(c.url), "uri": c.url, "container": c.url, "length": c.size, "version": c.version}
        | {"error": c.error}
        | shared
        for c in containers
    ]
    return pa.Table.from_pylist(rows, CATALOG)


def rows(container: Container, options: dict[str, Any], wanted: re.Pattern[str] | None, column: str | None) -> pa.Table:
    """The rows of a shard's images, in their order; in a tar links come last, and of two of one name the last counts.

    A shard that is damaged or ends early gives the rows read so far and one for itself, with the reason.

    Args:
        options: storage options.
        wanted: only images whose file name matches.
        column: of a Parquet file, the column of images.

    Raises:
        InputError: the shard cannot be read, or its column or file names cannot be told.
    """
    place = Place(container.url, options)
    file = ObjectFile(place, container.size or 0)
    if container.error:
        found = iter([{"uri": container.url, "offset": 0, "length": 0, "error": container.error}])
    elif container.kind == "parquet":
        found = _parquet_rows(container, file, wanted, column)
    else:
        found = _tar_rows(container, file, wanted)
    shared = {"container": container.url, "kind": container.kind, "version": container.version}
    try:
        return _last_of_each(pa.concat_tables(_tables(found, container.url, shared)))
    except ObjectError as error:
        raise explain(container.url, error.__cause__ or error) from None


def _tables(found: Iterator[Row], url: str, shared: Row) -> Iterator[pa.Table]:
    """The rows as tables, with a last one for damage."""
    damage: list[Row] = []

    def whole() -> Iterator[Row]:
        try:
            yield from found
        except DAMAGE as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())[:400]
            damage.append({"uri": url, "offset": 0, "length": 0, "error": f"DamagedShard: {text}"})

    iterator = whole()
    yield CATALOG.empty_table()
    while chunk := list(islice(iterator, CHUNK)) or damage[:1]:
        if chunk[0] in damage:
            damage.clear()
        yield pa.Table.from_pylist([row | shared | {"image_id": image_id(row["uri"])} for row in chunk], CATALOG)


def _last_of_each(table: pa.Table) -> pa.Table:
    """The last row of each id."""
    backwards = table["image_id"].to_numpy()[::-1]
    last = np.zeros(len(table), bool)
    last[np.unique(backwards, return_index=True)[1]] = True
    return table if last.all() else table.filter(pa.array(last[::-1]))


def _tar_rows(container: Container, file: ObjectFile, wanted: re.Pattern[str] | None) -> Iterator[Row]:
    for member in tar.members(file, compressed=container.kind == "tgz"):
        name = printable(member.name)
        if input_kind(name) == "image" and (wanted is None or wanted.fullmatch(name.rsplit("/", 1)[-1])):
            where = {"offset": member.offset, "length": member.size}
            yield {"uri": f"{container.url}#{name}", "error": member.error} | where


def _parquet_rows(
    container: Container, file: ObjectFile, wanted: re.Pattern[str] | None, column: str | None
) -> Iterator[Row]:
    for number, group in enumerate(parquet_images.row_groups(file, container.url, column)):
        if wanted is not None and group.names is None:
            raise InputError(
                f"{container.url}: column {group.column!r} has no file names that --glob could choose from; "
                "name this INPUT in a run without --glob"
            )
        names = group.names or [None] * group.rows
        for row, name in enumerate(names):
            if wanted is None or wanted.fullmatch((name or "").rsplit("/", 1)[-1]):
                where = {"part": number, "offset": row, "length": group.bytes // max(group.rows, 1)}
                yield {"uri": f"{container.url}#{number}/{row}", "column": group.column, "name": name} | where
