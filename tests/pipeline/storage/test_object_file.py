"""An object as a seekable file: the same bytes as a local file, in few requests."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.storage import object_file, place
from pipeline.storage.object_file import FIRST_READ, MAX_READ_AHEAD, ObjectError, ObjectFile

CONTENT = np.random.default_rng(0).bytes(300_000)
STEP = st.one_of(
    st.tuples(st.just("read"), st.integers(-1, 50_000)),
    st.tuples(st.just("seek"), st.integers(0, len(CONTENT))),
)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(start, stop) of each request of an `ObjectFile`."""
    made: list[tuple[int, int]] = []
    original = object_file.read_ranges

    def counted(where: object, ranges: list, seconds: float) -> list:
        made.extend((r.start, r.stop) for r in ranges)
        return original(where, ranges, seconds)

    monkeypatch.setattr(object_file, "read_ranges", counted)
    return made


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEP, max_size=12))
def test_it_reads_what_a_file_reads(steps: list[tuple[str, int]], tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(CONTENT)
    file, expected = ObjectFile(place(tmp_path / "x"), len(CONTENT)), io.BytesIO(CONTENT)
    for name, number in steps:
        assert getattr(file, name)(number) == getattr(expected, name)(number)
        assert file.tell() == expected.tell()
    assert io.BufferedReader(file).read() == expected.read()


def test_requests_grow_while_it_is_read_on_and_are_small_after_a_jump(
    tmp_path: Path, requests: list[tuple[int, int]]
) -> None:
    size = 64 << 20
    with (tmp_path / "x").open("wb") as sparse:
        sparse.truncate(size)
    file = ObjectFile(place(tmp_path / "x"), size)
    file.seek(1 << 20)
    while file.tell() < 40 << 20:
        file.read(100_000)
    lengths = [stop - start for start, stop in requests]
    assert lengths[0] == 100_000  # as much as asked for
    assert lengths[-1] == MAX_READ_AHEAD
    assert len(requests) < 14  # for 39 MiB
    assert all(a[1] == b[0] for a, b in itertools.pairwise(requests))
    file.seek(60 << 20)
    file.read(512)
    assert requests[-1] == (60 << 20, (60 << 20) + FIRST_READ)


def test_an_object_that_is_gone_is_an_error_with_a_cause(tmp_path: Path) -> None:
    with pytest.raises(ObjectError) as caught:
        ObjectFile(place(tmp_path / "x"), 100).read(10)
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_an_object_that_is_shorter_than_it_was_ends(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    assert ObjectFile(place(tmp_path / "x"), 100).read() == b"12345"
