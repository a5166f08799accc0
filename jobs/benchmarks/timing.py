"""Compares implementations in one process. They run alternately, so that changes of the machine affect all of them."""

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
    """Measures the seconds of each side in each round, after one warm-up round that does not count.

    Args:
        sides: functions to measure, by name.
        rounds: number of rounds that count.

    Returns:
        Seconds per round, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, run in sides.items():
            started = time.perf_counter()
            run()
            elapsed = time.perf_counter() - started
            if number:
                seconds[name].append(elapsed)
            err.print(f"[dim]{round_name(number)}: {name} {elapsed:.2f} s[/]")
    return seconds


def round_name(number: int) -> str:
    """Names a round for progress messages. Round 0 is the warm-up."""
    return f"round {number}" if number else "warm-up"


def speedup(slow: list[float], fast: list[float]) -> float:
    """Returns the median over the rounds of how many times faster the second side is."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def extra_memory(run: Callable[[], object]) -> float | None:
    """Returns by how many MiB the process grows at most while a function runs, or None without Linux's counters."""
    with suppress(AttributeError, OSError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)  # otherwise memory that was freed earlier would be reused and not counted
    try:
        (PROCESS / "clear_refs").write_text("5")  # resets the peak to the present resident size
        before = _peak_kib()
        run()
        return round((_peak_kib() - before) / 1024, 1)
    except OSError:
        return None


def _peak_kib() -> int:
    """Returns the largest resident size so far in KiB."""
    status = (PROCESS / "status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
