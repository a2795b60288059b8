"""How a command ends: what the user can mend is one line and exit code 2."""

import errno
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmodal.errors import Guarded, LostPeerError, UnfinishedError, UserError, printable, run_command

# ESC, CR, BEL, backspace, C1, DEL, an override of direction, half a pair, ends of lines.
NASTY = "\x1b]0;x\x07 \r \b \x9b2J \x7f \u202e \u2066 \ud800 \u2028 \x85 \x00"


@pytest.fixture(autouse=True)
def streams() -> Iterator[None]:
    """The streams as they are, which a command changes for good."""
    before = sys.stdout, sys.stderr
    yield
    sys.stdout, sys.stderr = before


def outcome(main: Callable[[], int | None]) -> object:
    with pytest.raises(SystemExit) as caught:
        run_command(main)
    return caught.value.code


def fail(error: BaseException) -> Callable[[], int | None]:
    def main() -> int | None:
        raise error

    return main


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_the_exit_code_is_what_main_returns(returned: int | None, code: int) -> None:
    assert outcome(lambda: returned) == code


def test_a_user_error_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert outcome(fail(UserError("no folder x; make one"))) == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "error: no folder x; make one\n")


def test_one_rank_speaks_first(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert outcome(fail(UserError("wrong"))) == 2
        assert bool(slept) == (rank == "1")
    assert capsys.readouterr().err == "error: wrong\n" * 2


def test_who_has_lost_a_rank_leaves_after_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.setenv("RANK", "3")
    assert outcome(fail(LostPeerError("rank 4 did not answer"))) == 75
    assert capsys.readouterr().err == "error: rank 3: rank 4 did not answer\n"
    assert slept == [10]


def test_interruption_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(fail(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == ""


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(fail(ZeroDivisionError()))


def test_a_full_disk_is_one_line_that_names_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "runs/x/metrics.jsonl")
    assert outcome(fail(full)) == 2
    line = "error: runs/x/metrics.jsonl cannot be written: No space left on device\n"
    assert capsys.readouterr().err == line
    with pytest.raises(OSError, match="Bad file"):
        run_command(fail(OSError(errno.EBADF, "Bad file descriptor")))


def test_text_of_others_is_one_line_that_does_nothing() -> None:
    shown = printable(f"a\nerror: b\tc{NASTY}")
    assert shown.startswith(r"a\nerror: b\tc\x1b]0;x\x07 \r \x08 \x9b2J \x7f \u202e")
    assert shown.isprintable()


def test_text_of_any_language_is_shown_as_it_is() -> None:
    text = "日本語 עברית नमस्ते café 👩\u200d🔬 \\ 'quoted'\u00a0"
    assert printable(text) == text


@given(st.text(st.characters(codec=None)))
def test_nothing_that_is_printed_moves_a_terminal(text: str) -> None:
    for shown in (printable(text), written(text)):
        shown.encode()
        assert not any((c < " " and c not in "\n\t") or "\x7f" <= c <= "\x9f" for c in shown)
    assert "\n" not in printable(text)


def written(text: str) -> str:
    """Return what becomes of a text that is written to a guarded stream."""
    stream = io.StringIO()
    assert Guarded(stream).write(text) == len(text)
    return stream.getvalue()


def test_lines_stay_lines_but_those_that_would_be_taken_for_ours() -> None:
    assert written("a\n\tb\n") == "a\n\tb\n"
    assert written("name\nerror: forged\n  warning: too\n") == (
        r"name\nerror: forged\n  warning: too" + "\n"
    )


@pytest.mark.parametrize(
    ("error", "code"), [(UserError, 2), (LostPeerError, 75), (UnfinishedError, 75)]
)
def test_whatever_a_message_names_it_is_one_line(
    error: type[Exception],
    code: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(os, "_exit", sys.exit)
    assert outcome(fail(error(f"bad x\nerror: forged{NASTY}"))) == code
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.rstrip("\n").isprintable()


def test_all_that_a_command_prints_is_printable(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        print(f"sample {NASTY}")
        print(f"sample {NASTY}\nerror: forged", file=sys.stderr)

    assert outcome(main) == 0
    for said in capsys.readouterr():
        assert said.startswith(r"sample \x1b]0;x\x07 \r")
        assert said.rstrip("\n").isprintable()


def test_a_traceback_is_printable() -> None:
    code = (
        "from xmodal.errors import run_command\n"
        "def main(): raise ValueError(chr(27) + chr(0xd800))\n"
        "run_command(main)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.endswith("ValueError: \\x1b\\ud800\n")


ENDS_EARLY = """
import os, sys, threading, time
import torch.distributed
from xmodal.errors import UserError, run_command

class Slow:
    def __del__(self):  # of Python's own end, after which a thread may not run on
        print("torn down")

def main():
    global kept
    kept = Slow()
    os.environ.update(RANK="0", WORLD_SIZE="1")
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    threading.Thread(target=lambda: (time.sleep(0.2), print("thread ended"))).start()
    if sys.argv[1] == "user":
        raise UserError("wrong")
    if sys.argv[1] == "bug":
        raise RuntimeError("bug")

run_command(main)
"""


@pytest.mark.parametrize(("ending", "code"), [("well", 0), ("user", 2), ("bug", 1)])
def test_a_rank_ends_without_tearing_python_down(ending: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDS_EARLY, ending], capture_output=True, text=True
    )
    assert done.returncode == code
    assert done.stdout == "thread ended\n"  # waited for; and nothing is torn down after it
