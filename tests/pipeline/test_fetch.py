"""Ranged reads: neighbours together, the image's own faults as errors, the store's as patience."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.reading import GAP, LARGEST, merge

MEMBER = st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 40 << 20), st.integers(1, 3 << 20))


@given(st.lists(MEMBER, max_size=40))
def test_each_row_lies_in_exactly_one_range(members: list[tuple[str, int, int]]) -> None:
    wanted = [(path, offset, length, row) for row, (path, offset, length) in enumerate(members)]
    ranges = merge(wanted)
    where = {row: r for r in ranges for row in r.rows}
    assert sorted(row for r in ranges for row in r.rows) == list(range(len(members)))
    for path, offset, length, row in wanted:
        assert where[row].path == path
        assert where[row].start <= offset
        assert offset + length <= where[row].stop
    for r in ranges:
        assert r.stop - r.start <= LARGEST or len({wanted[i][1:3] for i in r.rows}) == 1


def test_neighbours_of_a_shard_are_one_request_and_strangers_are_not() -> None:
    step = 100_000
    neighbours = [("s.tar", i * step, step - 512, i) for i in range(20)]
    assert len(merge(neighbours)) == 1
    assert len(merge([*neighbours, ("s.tar", 20 * step + GAP + 1, 10, 20), ("t.tar", 0, 10, 21)])) == 3
