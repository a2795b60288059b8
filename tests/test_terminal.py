"""What rich draws moves the cursor; what it is given to draw does not."""

import io
import sys

import pytest
from rich.progress import Progress, TextColumn
from rich.table import Table

from xmodal.errors import Guarded
from xmodal.terminal import console


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def begin(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Return what stands behind a command's stdout, if that is a terminal."""
    stream = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", Guarded(stream))
    return stream


def test_a_bar_is_drawn_and_text_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = begin(monkeypatch)
    shown = console(width=80)
    with Progress(TextColumn("{task.description}"), console=shown, auto_refresh=False) as bar:
        task = bar.add_task("one\x1b[31m", total=2)
        shown.print("a \x1b]0;title\x1b\\ b", markup=False, highlight=False)
        bar.update(task, description="two", refresh=True)
    said = terminal.getvalue()
    assert "\x1b[?25l" in said  # the cursor is hidden: this one is rich's
    assert r"one\x1b[31m" in said
    assert r"a \x1b]0;title\x1b\ b" in said
    assert "\x1b[31m" not in said
    assert "\x1b]" not in said


def test_a_table_is_drawn_and_its_text_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = begin(monkeypatch)
    table = Table("name")
    table.add_row("x\x1b[2Jy\u202e")
    console(width=80).print(table)
    said = terminal.getvalue()
    assert r"x\x1b[2Jy\u202e" in said
    assert said.count("\n") > 3


def test_a_bar_of_another_library_begins_its_line_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = begin(monkeypatch)
    sys.stdout.write("\r 50%")
    sys.stdout.write("name\r")
    assert terminal.getvalue() == "\r 50%name\\r"
