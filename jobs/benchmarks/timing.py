"""Measuring two ways of doing one thing: in one process, in alternation, so that both see the same machine."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from jobs.terminal.console import err

PROCESS = Path("/proc/self")


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


def extra_memory(run: Callable[[], object]) -> float | None:
    """Megabytes by which the process grows at most while it runs; None where the kernel does not tell."""
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)  # or what was freed before would be used again unseen
    try:
        (PROCESS / "clear_refs").write_text("5")  # the peak begins anew, at what is resident now
        before = _peak()
        run()
        return round((_peak() - before) / 1024, 1)
    except OSError:
        return None


def _peak() -> int:
    """The largest resident size so far, KiB."""
    status = (PROCESS / "status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
