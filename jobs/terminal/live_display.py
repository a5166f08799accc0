"""How a running job looks: a live panel on a terminal, a plain line every ten seconds elsewhere."""

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
    """Shows a job on stderr, so that stdout stays free for results. Use it as a context manager.

    Args:
        yes: the answer to what it would ask.
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
        self._task = self._step("")
        self._live = Live(self._bar, console=err, refresh_per_second=4, transient=True)
        self._began = self._last_line = 0.0

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
        """A new step: a line, and a bar of unknown length."""
        self._bar.remove_task(self._task)  # a total that was once known cannot be made unknown
        self._task = self._step(text)
        self._live.update(self._bar)
        err.print(f"[dim]{time.strftime('%H:%M:%S')}[/] {escape(text)}", soft_wrap=True)
        self._began = self._last_line = time.monotonic()

    def confirm(self, question: str) -> bool:
        """Asks on the terminal, unless it was answered on the command line; where nobody can answer it is no."""
        if self._yes:
            return True
        if not sys.stdin.isatty():
            err.print(f"{escape(question)} Nobody is here to ask: answer with --yes", soft_wrap=True)
            return False
        self._live.stop()  # it would draw over the question
        try:
            return typer.confirm(question, err=True)
        finally:
            if err.is_terminal:
                self._live.start()

    def reading(self, done: int, total: int) -> None:
        """The catalog grows."""
        self._bar.update(self._task, total=total, completed=done)
        self._line(f"catalog: {done:,} of {total:,} objects")

    def totals(self, totals: Totals, left: int) -> None:
        """The plan runs."""
        seconds = time.monotonic() - self._began
        rate = totals.images / seconds if seconds > 0 else 0.0
        done = min(totals.images, left)  # what a machine that died had not handed over is done, and counted, again
        eta = f"ETA {_clock((left - done) / rate)}" if totals.images else ""
        self._bar.update(
            self._task,
            total=left,
            completed=done,
            rate=f"{rate:.2f} images/s" if totals.images else "",
            eta=eta,
        )
        self._live.update(Group(self._bar, _details(totals)))
        failed = sum(totals.errors.values())
        self._line(f"{done:,} of {left:,} images, {rate:.2f} images/s, {failed} failed {eta}")

    def _step(self, text: str) -> TaskID:
        return self._bar.add_task(escape(text), total=None, rate="", eta="")

    def _line(self, text: str) -> None:
        if not err.is_terminal and time.monotonic() - self._last_line >= LINE_SECONDS:
            err.print(f"{time.strftime('%H:%M:%S')} {text}", soft_wrap=True)
            self._last_line = time.monotonic()


def _details(totals: Totals) -> Table:
    """Seconds an image spends in each stage, instances, errors by kind."""
    table = Table.grid(padding=(0, 2))
    for name in ("fetch", "decode", "segment", "encode"):
        if totals.passed[name]:
            each = totals.seconds[name] / totals.passed[name]
            table.add_row(Text(f"  {name}", style="dim"), f"{totals.passed[name]:,}", f"{each * 1000:,.0f} ms an image")
    table.add_row(Text("  instances", style="dim"), f"{totals.instances:,}")
    for kind, count in totals.errors.most_common(5):
        table.add_row(Text(f"  {kind}", style="yellow"), f"{count:,}")
    return table


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
