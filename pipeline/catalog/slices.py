"""Cuts the images that have no result yet into slices. Each slice is one read task of the Ray Data plan."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.catalog.id_set import contains
from pipeline.storage import Place
from pipeline.storage.suffixes import ASSUMED_IMAGE_BYTES, STREAMED_KINDS

SLICE_IMAGES, SLICE_BYTES = 64, 32 << 20  # limits of one slice


@dataclass(frozen=True)
class Slice:
    """Some rows of one catalog file: the work of one read task.

    Attributes:
        path: the catalog file.
        rows: int32, row numbers in that file, ascending. Neighbours in a shard are neighbours here.
        bytes: stored size of these images; `ASSUMED_IMAGE_BYTES` for each image of unknown size.
    """

    path: str
    rows: np.ndarray
    bytes: int = 0


def unfinished_slices(
    root: Place, done: np.ndarray, max_images: int = SLICE_IMAGES, max_bytes: int = SLICE_BYTES
) -> list[Slice]:
    """Cuts the images of the catalog that are not done into slices.

    Some containers can only be read from start to end: a .tgz, or a row group of a Parquet file. Their images
    stay in one slice, whatever its size.

    Args:
        root: the place that holds catalog/; usually the output.
        done: int64, sorted: ids of the images that have their row in the results.
        max_images: most images in a slice.
        max_bytes: most stored bytes in a slice.
    """
    slices = []
    for file in root.join("catalog").list(".parquet"):
        columns = ["image_id", "length", "kind", "container", "part"]
        table = pq.read_table(file.path, filesystem=file.arrow(), columns=columns)
        rows = np.flatnonzero(~contains(done, table["image_id"].to_numpy())).astype(np.int32)
        if not len(rows):
            continue
        table = table.take(pa.array(rows))
        starts = np.flatnonzero(_may_start_slice(table))
        lengths = pc.fill_null(table["length"], ASSUMED_IMAGE_BYTES).to_numpy()
        group_images = np.diff(np.append(starts, len(rows)))
        group_bytes = np.add.reduceat(lengths, starts)
        begin = end = size = 0
        for images, length in zip(group_images.tolist(), group_bytes.tolist(), strict=True):
            if end > begin and (end - begin + images > max_images or size + length > max_bytes):
                slices.append(Slice(file.path, rows[begin:end], size))
                begin, size = end, 0
            end, size = end + images, size + length
        slices.append(Slice(file.path, rows[begin:], size))
    return slices


def first_images(slices: list[Slice], limit: int | None) -> list[Slice]:
    """Returns slices of the first `limit` images; all slices if `limit` is None."""
    if limit is None:
        return slices
    chosen = []
    for s in slices:
        if limit > 0:
            rows = s.rows[:limit]
            chosen.append(replace(s, rows=rows, bytes=s.bytes * len(rows) // len(s.rows)))
        limit -= len(s.rows)
    return chosen


def _may_start_slice(table: pa.Table) -> np.ndarray:
    """bool: the rows at which a slice may start. A slice may not start inside a .tgz or a row group."""
    streamed = pc.is_in(table["kind"], value_set=pa.array(STREAMED_KINDS)).to_numpy()
    container = table["container"].combine_chunks().dictionary_encode().indices.to_numpy()
    part = pc.fill_null(table["part"], -1).to_numpy()
    allowed = np.ones(len(table), bool)
    allowed[1:] = ~streamed[1:] | (container[1:] != container[:-1]) | (part[1:] != part[:-1])
    return allowed
