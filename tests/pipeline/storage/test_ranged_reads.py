"""Ranged reads: neighbours share a request, and a server that ignores ranges is noticed."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pipeline.storage import place
from pipeline.storage.ranged_reads import (
    MAX_REQUEST_BYTES,
    MERGE_GAP,
    ByteRange,
    current_versions,
    merge_ranges,
    read_ranges,
)

MEMBER = st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 40 << 20), st.integers(1, 3 << 20))


@given(st.lists(MEMBER, max_size=40))
def test_each_row_lies_in_exactly_one_range(members: list[tuple[str, int, int]]) -> None:
    wanted = [(path, offset, length, row) for row, (path, offset, length) in enumerate(members)]
    ranges = merge_ranges(wanted)
    where = {row: r for r in ranges for row in r.rows}
    assert sorted(row for r in ranges for row in r.rows) == list(range(len(members)))
    for path, offset, length, row in wanted:
        assert where[row].path == path
        assert where[row].start <= offset
        assert offset + length <= where[row].stop
    for r in ranges:
        assert r.stop - r.start <= MAX_REQUEST_BYTES or len({wanted[i][1:3] for i in r.rows}) == 1


def test_only_neighbours_in_a_shard_share_a_request() -> None:
    step = 100_000
    neighbours = [("s.tar", i * step, step - 512, i) for i in range(20)]
    assert len(merge_ranges(neighbours)) == 1
    assert len(merge_ranges([*neighbours, ("s.tar", 20 * step + MERGE_GAP + 1, 10, 20), ("t.tar", 0, 10, 21)])) == 3


def test_each_range_is_bytes_or_an_error(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"0123456789")
    path, missing = str(tmp_path / "x"), str(tmp_path / "y")
    whole, part, gone = read_ranges(place(tmp_path), [ByteRange(path), ByteRange(path, 2, 5), ByteRange(missing)])
    assert (whole, part) == (b"0123456789", b"234")
    assert isinstance(gone, FileNotFoundError)
    version, error = current_versions([place(path), place(missing)])
    assert version == place(path).version()
    assert isinstance(error, FileNotFoundError)
    assert current_versions([]) == []
