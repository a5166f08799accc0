"""Timing two ways of doing one thing: in one process, in alternation, so that both see the same machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

from jobs.console import err


def alternate(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each side in each round, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(rounds + 1):
        for name, run in sides.items():
            began = time.perf_counter()
            run()
            spent = time.perf_counter() - began
            if round_:
                seconds[name].append(spent)
            err.print(f"[dim]{f'round {round_}' if round_ else 'warm-up'}: {name} {spent:.2f} s[/]")
    return seconds


def ratio(slow: list[float], fast: list[float]) -> float:
    """The median over the rounds of how many times faster the second is."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))
