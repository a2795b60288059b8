"""Folders on a local disk: one a process, removed as it ends or by the next one."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.processes import CONTEXT
from xmodal.errors import UserError
from xmodal.runs.local_folder import LocalFolder


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


def test_a_disk_that_is_too_small_or_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"disk=.* needs 1,000,000,000.0 GB a node and has .* free"):
        LocalFolder(tmp_path, 10**18, "disk")
    with pytest.raises(UserError, match=r"disk=.*gone cannot be written: No such file"):
        LocalFolder(tmp_path / "gone", 0, "disk")
    assert not folders(tmp_path)
