"""The files of the catalog: what they know, and writing new ones.

The metadata of a file lists, as int64 keys, the shards whose rows are all in this file or in older ones, so
a shard without an image in it is known too.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.schema import CATALOG, described, description_of
from pipeline.storage import Place
from pipeline.storage.atomic_files import temporary_folder

ROWS_PER_FILE = 100_000
ROW_GROUP = 1024  # rows; what a read task of 64 images has to read at least
READERS = 8  # files read at once
GONE = "ChangedShard: gone from its shard since its result was made"


@dataclass
class Known:
    """What a catalog holds.

    Attributes:
        files: where.
        ids: int64, sorted, each once.
        repeated: an id is there twice: a rewrite was cut short.
        outdated: a file is of an older version.
        gone: int64, ids of images that are in no shard any more.
        opened: keys of shards that have been read; see `key`.
        shards: versions and columns of each shard that has rows; several versions after a rewrite that was cut short.
    """

    files: list[Place]
    ids: np.ndarray
    repeated: bool = False
    outdated: bool = False
    gone: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    opened: set[int] = field(default_factory=set)
    shards: dict[str, set[tuple[str, str | None]]] = field(default_factory=dict)


def key(url: str, version: str, pattern: str | None, column: str | None) -> int:
    """Of a shard in a version, with what was asked of it: to ask for more is to open it again."""
    text = json.dumps([url, version, pattern, column])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def load(folder: Place) -> Known:
    """What the catalog in a folder holds; 8 bytes an image, a few hundred a shard."""
    files = folder.list(".parquet")
    known, ids, gone = Known(files, np.zeros(0, np.int64)), [known_ids := np.zeros(0, np.int64)], [known_ids]
    with ThreadPoolExecutor(READERS) as pool:
        for schema, table in pool.map(_digest, files):
            known.outdated |= "kind" not in schema.names
            known.opened.update(_keys(schema).tolist())
            ids.append(table["image_id"].to_numpy())
            gone.append(table.filter(pc.equal(table["error"], GONE))["image_id"].to_numpy())
            shards = table.filter(pc.not_equal(table["kind"], "image"))
            shards = shards.group_by(["container", "version", "column"]).aggregate([])
            for row in shards.to_pylist():
                known.shards.setdefault(row["container"], set()).add((row["version"], row["column"]))
    every = np.concatenate(ids)
    del ids
    every.sort()
    first = np.ones(len(every), bool)
    np.not_equal(every[1:], every[:-1], out=first[1:])
    known.repeated = not first.all()
    known.ids = every[first] if known.repeated else every
    known.gone = np.concatenate(gone)
    return known


def tables(files: list[Place]) -> Iterator[tuple[pa.Table, list[int]]]:
    """The rows of each file, and the keys of the shards it lists."""
    for place in files:
        schema, table = _read(place, CATALOG.names)
        yield table.select(CATALOG.names).cast(CATALOG), _keys(schema).tolist()


class Writer:
    """Writes rows and keys as new files of the output's catalog, of bounded size. Each is there whole or not at all.

    The rows of one `add` stay in one file. A key is written with the last of the rows that were added before it.
    """

    def __init__(self, output: Place) -> None:
        self._output = output
        self._tables: list[pa.Table] = []
        self._keys: list[int] = []

    def add(self, table: pa.Table, keys: list[int] | None = None) -> None:
        """Takes the rows, and the keys of shards whose rows are now all here."""
        self._tables += [table] if len(table) else []
        self._keys += keys or []
        if sum(map(len, self._tables)) >= ROWS_PER_FILE:
            self.flush()

    def flush(self) -> None:
        """Writes what is waiting."""
        if not self._tables and not self._keys:
            return
        keys = base64.b64encode(np.array(self._keys, "<i8").tobytes()).decode()
        schema = described(CATALOG, {"shards": keys})
        table = pa.concat_tables(self._tables or [CATALOG.empty_table()]).cast(schema)
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd", row_group_size=ROW_GROUP)
        file = self._output.join("catalog", f"part-{uuid.uuid4().hex}.parquet")
        file.put(buffer.getvalue(), temporary_folder(self._output))
        self._tables, self._keys = [], []


def _digest(place: Place) -> tuple[pa.Schema, pa.Table]:
    """A file's schema, and the columns of its rows that tell what is known; containers of loose images left out."""
    schema, table = _read(place, ["image_id", "kind", "error"])
    if pc.all(pc.equal(table["kind"], "image")).as_py() is not False:
        nothing = pa.nulls(len(table), pa.string())
        return schema, table.append_column("container", nothing).append_column("version", nothing).append_column(
            "column", nothing
        )
    _, more = _read(place, ["container", "version", "column"])
    for name in more.column_names:
        table = table.append_column(name, more[name])
    return schema, table


def _read(place: Place, columns: list[str]) -> tuple[pa.Schema, pa.Table]:
    """A file's schema and some of its columns; a file of version 0.1 gets those it lacks."""
    with pq.ParquetFile(place.path, filesystem=place.arrow()) as file:
        schema = file.schema_arrow
        old = "kind" not in schema.names
        table = file.read(columns=[*(c for c in columns if c in schema.names), *(["uri"] if old else [])])
    for name in columns if old else ():
        if name == "kind":
            member = pc.match_substring_regex(table["uri"], r"(?i)\.tar#")
            table = table.append_column(name, pc.if_else(member, "tar", "image"))
        elif name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), CATALOG.field(name).type))
    return schema, table.select(columns)


def _keys(schema: pa.Schema) -> np.ndarray:
    return np.frombuffer(base64.b64decode(description_of(schema).get("shards", "")), "<i8")
