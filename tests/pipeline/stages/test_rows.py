"""Rows between the stages: tensors are read in place, and every row survives the way through a table."""

from __future__ import annotations

import pyarrow as pa
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stages.rows import DecodedImage, FetchedImage, SegmentedImage, in_place
from pipeline.storage.original_bytes import FETCHED

CHUNKS = st.lists(st.lists(st.none() | st.binary(max_size=9), max_size=5), max_size=4)


@given(CHUNKS, st.integers(0, 9), st.integers(0, 9))
def test_values_are_those_of_the_column_whatever_its_chunks(
    chunks: list[list[bytes | None]], start: int, length: int
) -> None:
    column = pa.chunked_array(chunks, pa.large_binary()).slice(start, length)
    found = list(in_place(column))
    assert [None if value is None else value.to_pybytes() for value in found] == column.to_pylist()
    held = {buffer.address + i for c in column.chunks if (buffer := c.buffers()[2]) for i in range(buffer.size)}
    assert all(value.address in held for value in found if value), "copied"


def test_fetched_rows_have_the_schema_of_the_original_bytes() -> None:
    assert FetchedImage.schema() == FETCHED


def test_rows_are_the_same_after_a_table_and_pixels_are_not_copied() -> None:
    pixels = torch.arange(24, dtype=torch.uint8).view(4, 2, 3)[1:3]
    rows = [
        DecodedImage(1, "a.png", None, 20, 40, pixels=pixels),
        DecodedImage(2, "b.png", "NotAnImage: text"),
        DecodedImage(3, "c.jpg", None, 20, 40, encoded=b"jpeg"),
    ]
    table = DecodedImage.to_table(rows)
    assert table.schema == DecodedImage.schema()
    first, *others = DecodedImage.from_table(table)
    assert others == rows[1:]
    assert first.pixels is not None
    assert torch.equal(first.pixels, pixels)
    (_, _, memory) = table["pixels"].chunks[0].buffers()
    assert first.pixels.data_ptr() == memory.address


def test_rows_of_sliced_and_joined_tables_keep_their_instances() -> None:
    """Ray slices and joins tables to make batches. The fields are views of one tensor, as the network returns them."""
    found = torch.rand(5, 4 + 1 + 28 * 28)
    rows = [
        SegmentedImage(
            1, "a", None, 5, 6, found[:, :4], found[:, 4], torch.arange(5), found[:, 5:].unflatten(1, (28, 28))
        ),
        SegmentedImage(2, "b", "SegmentError: x", 5, 6),
        SegmentedImage(3, "c", None, 5, 6, torch.rand(0, 4), torch.rand(0), torch.arange(0), torch.rand(0, 28, 28)),
    ]
    table = SegmentedImage.to_table(rows)
    again = list(SegmentedImage.from_table(pa.concat_tables([table.slice(1), table.slice(0, 1)])))
    assert [row.image_id for row in again] == [2, 3, 1]
    assert again[0].masks is None
    assert again[1].masks is not None
    assert again[1].masks.shape == (0, 28, 28)
    for name in ("boxes", "scores", "labels", "masks"):
        before, after = getattr(rows[0], name), getattr(again[2], name)
        assert torch.equal(before, after)
        assert before.dtype == after.dtype
