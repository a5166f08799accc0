"""Expands braces in paths, as a shell does."""

from __future__ import annotations

import re
from itertools import product

from pipeline.errors import InputError


def expand_braces(path: str) -> list[str]:
    """Expands `shard-{000..002}.tar` and `{a,b}/x`. Zero padding is kept.

    Returns:
        The paths in order; the path itself if it has no braces.

    Raises:
        InputError: a brace has no partner, or braces are nested.
    """
    parts: list[list[str]] = []
    for text, braced in re.findall(r"([^{]+)|\{([^{}]*)\}", path):
        if text:
            parts.append([text])
        elif match := re.fullmatch(r"(\d+)\.\.(\d+)", braced):
            first, last = int(match[1]), int(match[2])
            width = len(match[1]) if match[1].startswith("0") else 0
            step = 1 if last >= first else -1
            parts.append([f"{n:0{width}d}" for n in range(first, last + step, step)])
        else:
            parts.append(braced.split(","))
    pairs = len(re.findall(r"\{[^{}]*\}", path))
    if path.count("{") != pairs or path.count("}") != pairs:
        raise InputError(f"{path}: braces must come in pairs and must not be nested")
    return ["".join(p) for p in product(*parts)] or [path]
