"""The window that an actor takes: its pixels are read where they lie."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stages.segment import in_place

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
