"""Which column of a table is chosen."""

from __future__ import annotations

import pytest

from pipeline.errors import InputError
from pipeline.storage.containers.table_columns import choose_column


@pytest.mark.parametrize(
    ("candidates", "requested", "expected"),
    [
        (["a"], None, "a"),
        (["a", "Image"], None, "Image"),
        (["a", "image", "b"], "b", "b"),
    ],
)
def test_the_requested_the_only_or_the_usual_column_is_chosen(
    candidates: list[str], requested: str | None, expected: str
) -> None:
    assert choose_column("s3://b/t", "a column of x", candidates, requested, ("image", "img")) == expected


@pytest.mark.parametrize(
    ("candidates", "requested", "message"),
    [
        (["a", "b"], None, "s3://b/t: which column is meant? name a column of x with --column; there are: a, b"),
        (["image", "img"], None, "s3://b/t: which column is meant? name a column of x with --column; there are: ima"),
        (["a"], "b", "s3://b/t: column 'b' is not a column of x; there are: a"),
        ([], None, "s3://b/t: which column is meant? name a column of x with --column; there are: none"),
    ],
)
def test_an_unclear_choice_lists_the_columns(candidates: list[str], requested: str | None, message: str) -> None:
    with pytest.raises(InputError) as caught:
        choose_column("s3://b/t", "a column of x", candidates, requested, ("image", "img"))
    assert str(caught.value).startswith(message)
