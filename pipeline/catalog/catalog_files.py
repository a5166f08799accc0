"""Reads and writes the Parquet files of the catalog.

The metadata of each file lists the keys of shards whose rows are all in this file or in older ones; see `shard_key`.
So a shard without any image in it is known too.
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

from pipeline.catalog.id_set import NO_IDS
from pipeline.schema import CATALOG, description_of, with_description
from pipeline.storage import Place
from pipeline.storage.atomic_files import temporary_folder

ROWS_PER_FILE = 100_000
ROW_GROUP = 1024  # rows; the least that a read task of 64 images has to read
READERS = 8  # files read at once
REMOVED = "ChangedShard: gone from its shard since its result was made"


@dataclass
class CatalogState:
    """What the files of a catalog hold.

    Attributes:
        files: the files.
        ids: int64, sorted, without duplicates: ids of all images.
        has_duplicates: an id occurs twice, because a rewrite was interrupted.
        is_outdated: a file was written by an older version of Maskfleet.
        removed_ids: int64: ids of images that their shard no longer holds (`error` is `REMOVED`).
        shard_keys: keys of the shards that have been read; see `shard_key`.
        shards: (version, column) pairs by URL of each shard that has rows. A shard has several versions after a
            rewrite that was interrupted.
    """

    files: list[Place]
    ids: np.ndarray
    has_duplicates: bool = False
    is_outdated: bool = False
    removed_ids: np.ndarray = field(default_factory=lambda: NO_IDS)
    shard_keys: set[int] = field(default_factory=set)
    shards: dict[str, set[tuple[str, str | None]]] = field(default_factory=dict)


def shard_key(url: str, version: str, pattern: str | None, column: str | None) -> int:
    """Returns a 63-bit hash of a shard's version and of the options it was read with.

    A shard is opened again when it has changed, or when other images of it are asked for.
    """
    text = json.dumps([url, version, pattern, column])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def load_state(folder: Place) -> CatalogState:
    """Reads what the catalog in a folder holds. Ids take 8 bytes each, shards a few hundred."""
    files = folder.list(".parquet")
    state, ids, removed = CatalogState(files, NO_IDS), [NO_IDS], [NO_IDS]
    with ThreadPoolExecutor(READERS) as pool:
        for schema, table in pool.map(_read_state_columns, files):
            state.is_outdated |= "kind" not in schema.names
            state.shard_keys.update(_shard_keys(schema).tolist())
            ids.append(table["image_id"].to_numpy())
            removed.append(table.filter(pc.equal(table["error"], REMOVED))["image_id"].to_numpy())
            shards = table.filter(pc.not_equal(table["kind"], "image"))
            shards = shards.group_by(["container", "version", "column"]).aggregate([])
            for row in shards.to_pylist():
                state.shards.setdefault(row["container"], set()).add((row["version"], row["column"]))
    all_ids = np.concatenate(ids)
    del ids  # halves the peak memory
    all_ids.sort()
    first = np.ones(len(all_ids), bool)
    np.not_equal(all_ids[1:], all_ids[:-1], out=first[1:])
    state.has_duplicates = not first.all()
    state.ids = all_ids[first] if state.has_duplicates else all_ids
    state.removed_ids = np.concatenate(removed)
    return state


def read_tables(files: list[Place]) -> Iterator[tuple[pa.Table, list[int]]]:
    """Reads the rows of each file in the schema `CATALOG`, and the shard keys that it lists."""
    for file in files:
        schema, table = _read(file, CATALOG.names)
        yield table.select(CATALOG.names).cast(CATALOG), _shard_keys(schema).tolist()


class CatalogWriter:
    """Writes rows and shard keys to new catalog files of bounded size. A file appears only when it is complete.

    The rows of one `add` stay in one file. The keys of one `add` are written together with its rows or after them,
    so a key in a file means that all rows of its shard are there.

    Args:
        root: the place that holds catalog/; usually the output.
    """

    def __init__(self, root: Place) -> None:
        self._root = root
        self._tables: list[pa.Table] = []
        self._keys: list[int] = []

    def add(self, table: pa.Table, keys: list[int] | None = None) -> None:
        """Adds rows, and the keys of shards whose rows have now all been added."""
        self._tables += [table] if len(table) else []
        self._keys += keys or []
        if sum(map(len, self._tables)) >= ROWS_PER_FILE:
            self.flush()

    def flush(self) -> None:
        """Writes what has been added since the last file."""
        if not self._tables and not self._keys:
            return
        keys = base64.b64encode(np.array(self._keys, "<i8").tobytes()).decode()
        schema = with_description(CATALOG, {"shards": keys})
        table = pa.concat_tables(self._tables or [CATALOG.empty_table()]).cast(schema)
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd", row_group_size=ROW_GROUP)
        file = self._root.join("catalog", f"part-{uuid.uuid4().hex}.parquet")
        file.put(buffer.getvalue(), temporary_folder(self._root))
        self._tables, self._keys = [], []


def _read_state_columns(file: Place) -> tuple[pa.Schema, pa.Table]:
    """Reads a file's schema and the columns that `load_state` needs.

    `container`, `version` and `column` are null if the file holds only loose images, where nobody needs them.
    """
    schema, table = _read(file, ["image_id", "kind", "error"])
    names = ["container", "version", "column"]
    if pc.all(pc.equal(table["kind"], "image")).as_py() is not False:
        shard_columns = pa.table([pa.nulls(len(table), pa.string()) for _ in names], names)
    else:
        _, shard_columns = _read(file, names)
    for name in names:
        table = table.append_column(name, shard_columns[name])
    return schema, table


def _read(file: Place, columns: list[str]) -> tuple[pa.Schema, pa.Table]:
    """Reads a file's schema and some columns. Adds columns that files of version 0.1 lack."""
    with pq.ParquetFile(file.path, filesystem=file.arrow()) as parquet:
        schema = parquet.schema_arrow
        old = "kind" not in schema.names
        table = parquet.read(columns=[*(c for c in columns if c in schema.names), *(["uri"] if old else [])])
    for name in columns if old else ():
        if name == "kind":
            member = pc.match_substring_regex(table["uri"], r"(?i)\.tar#")
            table = table.append_column(name, pc.if_else(member, "tar", "image"))
        elif name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), CATALOG.field(name).type))
    return schema, table.select(columns)


def _shard_keys(schema: pa.Schema) -> np.ndarray:
    return np.frombuffer(base64.b64decode(description_of(schema).get("shards", "")), "<i8")
