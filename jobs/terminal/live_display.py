"""Shows a running job: a live panel on a terminal, otherwise a plain line every ten seconds."""

from __future__ import annotations

import sys
import time
from types import TracebackType

import typer
from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from jobs.terminal.console import err
from pipeline.observer import JobObserver, Totals

LINE_SECONDS = 10.0


class Display(JobObserver):
    """Shows a job on stderr, because stdout is for results. Use it as a context manager.

    Args:
        yes: whether to answer all questions with yes and not ask.
    """

    def __init__(self, yes: bool = False) -> None:
        self._yes = yes
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[eta]}"),
            console=err,
        )
        self._task = self._add_task("")
        self._live = Live(self._bar, console=err, refresh_per_second=4, transient=True)
        self._phase_start = self._last_line = 0.0  # of time.monotonic()

    def __enter__(self) -> Display:
        if err.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if err.is_terminal:
            self._live.stop()

    def phase(self, text: str) -> None:
        """Starts a phase: prints a line and shows a bar of unknown length."""
        self._bar.remove_task(self._task)  # Rich cannot take the total from a task again
        self._task = self._add_task(text)
        self._live.update(self._bar)
        err.print(f"[dim]{time.strftime('%H:%M:%S')}[/] {escape(text)}", soft_wrap=True)
        self._phase_start = self._last_line = time.monotonic()

    def confirm(self, question: str) -> bool:
        """Asks on the terminal. The answer is yes with --yes, and no if stdin is not a terminal."""
        if self._yes:
            return True
        if not sys.stdin.isatty():
            err.print(f"{escape(question)} This is not a terminal, so nobody can answer: use --yes", soft_wrap=True)
            return False
        self._live.stop()  # otherwise it draws over the question
        try:
            return typer.confirm(question, err=True)
        finally:
            if err.is_terminal:
                self._live.start()

    def catalog_progress(self, done: int, total: int) -> None:
        """Shows how much of the catalog is built."""
        self._bar.update(self._task, total=total, completed=done)
        self._print_line(f"catalog: {done:,} of {total:,} objects")

    def totals(self, totals: Totals, total: int) -> None:
        """Shows the counts of the running plan."""
        seconds = time.monotonic() - self._phase_start
        rate = totals.images / seconds if seconds > 0 else 0.0
        done = min(totals.images, total)  # images lost with a node are segmented, and counted, again
        eta = f"ETA {_clock((total - done) / rate)}" if totals.images else ""
        self._bar.update(
            self._task,
            total=total,
            completed=done,
            rate=f"{rate:.2f} images/s" if totals.images else "",
            eta=eta,
        )
        self._live.update(Group(self._bar, _stage_table(totals)))
        failed = sum(totals.errors.values())
        self._print_line(f"{done:,} of {total:,} images, {rate:.2f} images/s, {failed} failed {eta}")

    def _add_task(self, text: str) -> TaskID:
        return self._bar.add_task(escape(text), total=None, rate="", eta="")

    def _print_line(self, text: str) -> None:
        """Prints a line if this is no terminal and the last line is ten seconds old."""
        if not err.is_terminal and time.monotonic() - self._last_line >= LINE_SECONDS:
            err.print(f"{time.strftime('%H:%M:%S')} {text}", soft_wrap=True)
            self._last_line = time.monotonic()


def _stage_table(totals: Totals) -> Table:
    """Images and seconds per image of each stage, instances, and the most frequent kinds of errors."""
    table = Table.grid(padding=(0, 2))
    for name in ("fetch", "decode", "segment", "encode"):
        if totals.passed[name]:
            milliseconds = 1000 * totals.seconds[name] / totals.passed[name]
            table.add_row(
                Text(f"  {name}", style="dim"), f"{totals.passed[name]:,}", f"{milliseconds:,.0f} ms per image"
            )
    table.add_row(Text("  instances", style="dim"), f"{totals.instances:,}")
    for kind, count in totals.errors.most_common(5):
        table.add_row(Text(f"  {kind}", style="yellow"), f"{count:,}")
    return table


def _clock(seconds: float) -> str:
    """Seconds as M:SS or H:MM:SS."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
