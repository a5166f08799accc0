"""Expanding braces in paths."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.catalog.braces import expand_braces
from pipeline.errors import InputError


@given(st.integers(0, 200), st.integers(0, 50), st.integers(1, 5))
def test_braces_expand_as_in_a_shell(first: int, count: int, width: int) -> None:
    text = f"s-{first:0{width}d}..{first + count:0{width}d}"
    got = expand_braces("s-{" + text[2:] + "}.tar")
    padded = len(str(first)) < width  # a shell pads when the first bound is written with zeros
    expected = [f"s-{n:0{width}d}.tar" if padded else f"s-{n}.tar" for n in range(first, first + count + 1)]
    assert got == expected


def test_lists_and_ranges_are_combined() -> None:
    assert expand_braces("{a,b}/{9..11}.tar") == [f"{x}/{n}.tar" for x in "ab" for n in (9, 10, 11)]
    assert expand_braces("plain.tar") == ["plain.tar"]


@pytest.mark.parametrize("path", ["x{1.png", "x1}.png", "{a,{b,c}}"])
def test_braces_without_a_partner_and_nested_ones_are_refused(path: str) -> None:
    with pytest.raises(InputError, match="braces must come in pairs"):
        expand_braces(path)
