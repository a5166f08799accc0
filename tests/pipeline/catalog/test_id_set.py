"""Sets of image ids."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.catalog.id_set import IdSet


@given(st.lists(st.lists(st.integers(0, 50), max_size=12), max_size=20))
def test_an_id_is_new_only_once(batches: list[list[int]]) -> None:
    ids, seen = IdSet(np.array([3, 5], np.int64)), {3, 5}
    for batch in batches:
        expected = []
        for i in batch:
            expected.append(i not in seen)
            seen.add(i)
        assert ids.add(np.array(batch, np.int64)).tolist() == expected
        assert ids.contains(np.arange(60)).tolist() == [i in seen for i in range(60)]
        assert len(ids) == len(seen)
