import errno
import os
import signal
from pathlib import Path

import pytest

from tests.processes import CONTEXT
from xmodal.errors import UserError
from xmodal.runs.lock import acquire_run_lock
from xmodal.runs.run import is_bare


def _hold_for_ever(folder: Path, pipe: object) -> None:
    file = acquire_run_lock(folder, "it")
    pipe.send(file.name)  # type: ignore[attr-defined]
    signal.pause()


def test_a_folder_is_held_until_its_process_ends_however(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xmodal.runs.lock.SECONDS", 0)
    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=_hold_for_ever, args=(tmp_path / "run", theirs))
    process.start()
    ours.recv()
    with pytest.raises(UserError, match=rf"^run=there is in use by process {process.pid} on "):
        acquire_run_lock(tmp_path / "run", "run=there")
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    acquire_run_lock(tmp_path / "run", "run=there").close()
    assert is_bare(tmp_path / "run")


def test_a_lock_that_is_no_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "run" / "lock").mkdir(parents=True)
    with pytest.raises(UserError, match=r"run/lock cannot be written: Is a directory; move away"):
        acquire_run_lock(tmp_path / "run", "run=there")
    (tmp_path / "file").touch()
    for folder, why in (("file/run", "Not a directory"), ("file", "File exists")):
        line = f"^run=there cannot be made a folder: {why}; name another folder$"
        with pytest.raises(UserError, match=line):
            acquire_run_lock(tmp_path / folder, "run=there")


def test_a_file_system_without_locks_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.lockf", without_locks)
    with pytest.raises(UserError, match=r"lock cannot be locked: No locks available; name a fol"):
        acquire_run_lock(tmp_path / "run", "run=there")
