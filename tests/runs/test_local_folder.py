"""Folders on a local disk: one a process, removed as it ends or by the next one."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.processes import CONTEXT
from xmodal.errors import UserError
from xmodal.runs.local_folder import OWNER, LocalFolder


def _hold(parent: Path, pipe: Any) -> None:
    folder = LocalFolder(parent, 0, "disk")
    (folder.path / "state").write_bytes(b"1")
    pipe.send(folder.path)
    signal.pause()


def folders(parent: Path) -> set[Path]:
    return {one for one in parent.iterdir() if one.is_dir()}


def test_a_folder_lasts_as_long_as_its_process(tmp_path: Path) -> None:
    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=_hold, args=(tmp_path, theirs))
    process.start()
    other = ours.recv()
    mine, second = LocalFolder(tmp_path, 0, "disk"), LocalFolder(tmp_path, 0, "disk")
    assert folders(tmp_path) == {other, mine.path, second.path}
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    second.close()
    assert folders(tmp_path) == {other, mine.path}
    third = LocalFolder(tmp_path, 0, "disk")
    assert folders(tmp_path) == {mine.path, third.path}
    for one in (mine, third):
        one.close()
    assert not folders(tmp_path)


def _come_and_go(parent: Path) -> None:
    for _ in range(30):
        folder = LocalFolder(parent, 0, "disk")
        (folder.path / "state").write_bytes(b"1")
        folder.close()


def test_processes_come_and_go_at_once(tmp_path: Path) -> None:
    processes = [CONTEXT.Process(target=_come_and_go, args=(tmp_path,)) for _ in range(3)]
    for one in processes:
        one.start()
    for one in processes:
        one.join()
    assert [one.exitcode for one in processes] == [0, 0, 0]
    assert not folders(tmp_path)


def test_a_process_that_ends_removes_its_folder(tmp_path: Path) -> None:
    code = "from pathlib import Path; from xmodal.runs.local_folder import LocalFolder; "
    code += f"one = LocalFolder(Path({str(tmp_path)!r}), 0, 'disk'); raise SystemExit(3)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 3
    assert not folders(tmp_path)


def test_folders_of_others_stay(tmp_path: Path) -> None:
    mine = tmp_path / "xmodal-state-of-mine"
    mine.mkdir()
    (mine / "notes").write_text("mine")
    (tmp_path / "xmodal-state-elsewhere").symlink_to(mine)
    elsewhere = tmp_path / "xmodal-state-of-another-node"
    elsewhere.mkdir()
    (elsewhere / OWNER).write_text("elsewhere\n")
    LocalFolder(tmp_path, 0, "disk").close()
    assert elsewhere.is_dir()
    assert (mine / "notes").read_text() == "mine"
    assert (tmp_path / "xmodal-state-elsewhere").is_symlink()


def test_a_disk_that_is_too_small_or_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"disk=.* needs 1,000,000,000.0 GB a node and has .* free"):
        LocalFolder(tmp_path, 10**18, "disk")
    with pytest.raises(UserError, match=r"disk=.*gone cannot be written: No such file"):
        LocalFolder(tmp_path / "gone", 0, "disk")
    assert not folders(tmp_path)
