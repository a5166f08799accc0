"""Indexes containers: makes the catalog rows of loose images and of the images in shards.

A tar shard is indexed from its headers, a Parquet shard from its footer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.catalog.inputs import Container, file_name_pattern
from pipeline.errors import InputError
from pipeline.schema import CATALOG, image_id, printable
from pipeline.storage import Place, explain
from pipeline.storage.containers import parquet_images, tar
from pipeline.storage.object_file import ObjectError, ObjectFile
from pipeline.storage.suffixes import input_kind

CHUNK = 10_000  # rows that are Python objects at the same time
DAMAGE = (*tar.DAMAGE_ERRORS, pa.ArrowException, OSError, LookupError)
Row = dict[str, Any]  # columns of CATALOG, without those that all rows of a container share


@dataclass(frozen=True)
class IndexOptions:
    """Which images of a shard to catalog, and how to open it.

    Attributes:
        pattern: only images whose file name matches this glob. A later run with another pattern adds to the catalog.
        column: of Parquet shards, the column of images; None finds it.
        storage_options: fsspec storage options.
    """

    pattern: str | None = None
    column: str | None = None
    storage_options: dict[str, Any] = field(default_factory=dict)


def index_images(containers: Iterable[Container]) -> pa.Table:
    """Returns the catalog rows of loose images, one per container, in the schema `CATALOG`."""
    shared = {"kind": "image", "offset": 0}
    rows = [
        {"image_id": image_id(c.url), "uri": c.url, "container": c.url, "length": c.size, "version": c.version}
        | {"error": c.error}
        | shared
        for c in containers
    ]
    return pa.Table.from_pylist(rows, CATALOG)


def index_shard(container: Container, options: IndexOptions) -> pa.Table:
    """Reads which images a shard holds.

    If two members of a tar have the same name, the last one counts.

    Returns:
        One row per image in the order of the shard, in the schema `CATALOG`; links in a tar come last. A shard that
        is damaged or truncated gives the rows read so far, and one row for itself with the reason in `error`.

    Raises:
        InputError: the shard cannot be read, its column of images is ambiguous, or `pattern` is set and its images
            have no file names.
    """
    place = Place(container.url, options.storage_options)
    file = ObjectFile(place, container.size or 0)
    wanted = file_name_pattern(options.pattern) if options.pattern else None
    if container.error:
        rows = iter([{"uri": container.url, "offset": 0, "length": 0, "error": container.error}])
    elif container.kind == "parquet":
        rows = _parquet_rows(container, file, wanted, options.column)
    else:
        rows = _tar_rows(container, file, wanted)
    shared = {"container": container.url, "kind": container.kind, "version": container.version}
    try:
        return _drop_earlier_duplicates(pa.concat_tables(_tables(rows, container.url, shared)))
    except ObjectError as error:
        raise explain(container.url, error.__cause__ or error) from None


def _tables(rows: Iterator[Row], url: str, shared: Row) -> Iterator[pa.Table]:
    """Converts rows to tables of up to `CHUNK` rows. An error of a damaged shard becomes a last row."""
    damage: list[Row] = []

    def until_damage() -> Iterator[Row]:
        try:
            yield from rows
        except DAMAGE as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())[:400]
            damage.append({"uri": url, "offset": 0, "length": 0, "error": f"DamagedShard: {text}"})

    iterator = until_damage()
    yield CATALOG.empty_table()
    while chunk := list(islice(iterator, CHUNK)) or damage[:1]:
        if chunk[0] in damage:
            damage.clear()
        yield pa.Table.from_pylist([row | shared | {"image_id": image_id(row["uri"])} for row in chunk], CATALOG)


def _drop_earlier_duplicates(table: pa.Table) -> pa.Table:
    """Keeps the last row of each id."""
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
                f"{container.url}: column {group.column!r} has no file names that --glob could select by; "
                "pass this INPUT in a run without --glob"
            )
        names = group.names or [None] * group.rows
        for row, name in enumerate(names):
            if wanted is None or wanted.fullmatch((name or "").rsplit("/", 1)[-1]):
                where = {"part": number, "offset": row, "length": group.bytes // max(group.rows, 1)}
                yield {"uri": f"{container.url}#{number}/{row}", "column": group.column, "name": name} | where
