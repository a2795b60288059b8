"""How a command ends: what the user can mend is one line and exit code 2."""

import errno
import os
import sys
import time
from collections.abc import Callable

import pytest

from xmodal.errors import LostPeerError, UserError, run_command


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
