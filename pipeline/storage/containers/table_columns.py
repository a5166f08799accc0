"""Chooses the column of a table that holds images, or the addresses of images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.errors import InputError


def choose_column(
    where: str, content: str, candidates: Sequence[str], requested: str | None, usual_names: Iterable[str]
) -> str:
    """Returns the requested column, or the only candidate, or the only candidate with a usual name.

    Args:
        where: address of the table, for the error.
        content: what is looked for ("a column of addresses"), for the error.
        candidates: columns with a fitting type.
        requested: the column that the user named (--column), or None.
        usual_names: lower-case names that such a column usually has.

    Raises:
        InputError: the requested column is not a candidate, or the choice is ambiguous.
    """
    listed = ", ".join(candidates) or "none"
    if requested is not None and requested not in candidates:
        raise InputError(f"{where}: column {requested!r} is not {content}; there are: {listed}")
    usual = set(usual_names)
    for choices in ([requested] if requested else [], candidates, [c for c in candidates if c.lower() in usual]):
        if len(choices) == 1:
            return choices[0]
    raise InputError(f"{where}: which column is meant? name {content} with --column; there are: {listed}")
