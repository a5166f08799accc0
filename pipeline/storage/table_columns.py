"""Which column of a table is meant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.errors import InputError


def choose_column(where: str, of: str, candidates: Sequence[str], column: str | None, usual: Iterable[str]) -> str:
    """The column of a table that is meant: the one asked for, else the only one, else the only one of a usual name.

    Args:
        of: what the column should hold, for the error.

    Raises:
        InputError: it is not among the candidates, or cannot be told.
    """
    listed = ", ".join(candidates) or "none"
    if column is not None and column not in candidates:
        raise InputError(f"{where}: column {column!r} is none of {of}; there are: {listed}")
    likely = [c for c in candidates if c.lower() in set(usual)]
    for few in ([column] if column else [], candidates, likely):
        if len(few) == 1:
            return few[0]
    raise InputError(f"{where}: which column is meant, of {of}? name it with --column; there are: {listed}")
