"""The live display: a panel on a (pseudo-)terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import pty
import re
import sys
import time
from pathlib import Path

import pytest

from jobs.terminal.live_display import Display
from pipeline.observer import Totals

ROOT = Path(__file__).parents[3]
SCRIPT = """
import sys, time
from jobs.terminal.live_display import Display
from pipeline.observer import Totals
with Display() as display:
    display.phase("cataloguing")
    display.catalog_progress(5, 1234)
    time.sleep(1.5)
    display.phase("asking [/red]")
    time.sleep(1.5)
    print("<answer>", display.confirm("Move?"))
    display.phase("segmenting 7 images")
    totals = Totals(images=3, instances=41)
    totals.errors["Damaged[/b]"] = 2
    display.totals(totals, 7)
    time.sleep(1.5)
"""


def on_a_terminal(script: str, question: str, answer: str) -> str:
    """Runs a script on a terminal of 120 columns, answers its question, and returns all that it shows."""
    pid, terminal = pty.fork()
    if not pid:
        environment = {**os.environ, "COLUMNS": "120", "TERM": "xterm", "PYTHONPATH": str(ROOT)}
        os.execve(sys.executable, [sys.executable, "-c", script], environment)
    shown, answered, deadline = "", False, time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            piece = os.read(terminal, 4096).decode(errors="replace")
        except OSError:  # the other side is closed
            break
        shown += piece
        if not answered and question in shown:
            os.write(terminal, f"{answer}\n".encode())
            answered = True
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, shown
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)


@pytest.mark.slow
def test_a_terminal_shows_a_panel() -> None:
    shown = on_a_terminal(SCRIPT, "Move?", "y")
    catalog, asking, segmenting = re.split(r"asking \[/red\]\r?\n|segmenting 7 images\r?\n", shown)[:3]
    assert "5/1234" in catalog
    assert "1234" not in asking, "the total of the phase before"
    assert "<answer> True" in asking
    for text in ("3/7", "images/s", "ETA", "instances", "41", "Damaged[/b]"):
        assert text in segmenting, "no panel after the question"


def test_elsewhere_plain_lines_appear(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.terminal.live_display.LINE_SECONDS", 0.0)
    with Display() as display:
        display.phase("segmenting 7 images")
        display.totals(Totals(images=3), 7)
        assert not display.confirm("Move?"), "nobody can answer"
    shown = capsys.readouterr().err
    assert "3 of 7 images" in shown
    assert "use --yes" in shown
