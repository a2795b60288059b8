"""Small files: what is no such file is refused before it takes memory or time."""

import os
from pathlib import Path

import pytest

from xmodal.errors import UserError
from xmodal.small_files import read_small


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    file.write_bytes(b"12345")
    assert read_small(file, 5) == b"12345"
    with pytest.raises(UserError, match=rf"^{file} is over 4 bytes; remove or restore it$"):
        read_small(file, 4)
    with pytest.raises(FileNotFoundError):
        read_small(tmp_path / "none")


def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with pytest.raises(ValueError, match="is not a regular file"):
            read_small(tmp_path / name)
