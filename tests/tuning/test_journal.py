"""A sweep's journal, whatever has become of the file."""

import json
from pathlib import Path

import pytest

from xmodal.errors import UserError
from xmodal.tuning.journal import Journal

MADE = b'{"trial": "000", "values": {"data.batch_size": 8}}'
OVER = b'{"trial": "000", "end": "finished"}'


def test_a_line_left_half_written_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(MADE + b"\n" + OVER[:9])
    journal = Journal(path)
    assert journal.trials["000"].end is None
    journal.add("000", json.loads(OVER))
    assert Journal(path).trials["000"].end == "finished"


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"\xff\x00", b"[]", b"3", b"{}", b'{"trial": "000", "step": 3}', OVER[:-1] + b",}"],
)
def test_a_damaged_line_is_one_line(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"\n".join((MADE, line, OVER, b"")))
    with pytest.raises(UserError, match=r"journal\.jsonl: line 2 is not about a trial; remove"):
        Journal(path)


@pytest.mark.parametrize(
    "row",
    [
        {"trial": "../../victim", "values": {}},
        {"trial": "/victim", "values": {}},
        {"trial": "\x1b[31m", "values": {}},
        {"trial": 3, "values": {}},
        {"trial": "001", "values": [1]},
        {"trial": "000", "value": "x", "step": 1, "samples": 1, "progress": 1},
        {"trial": "000", "value": 1, "step": "1", "samples": 1, "progress": 1},
        {"trial": "000", "weights": "../victim", "step": 1},
        {"trial": "000", "end": {}},
        {"trial": "000", "end": "failed", "line": 7},
    ],
)
def test_what_a_stranger_has_written_is_one_line(row: object, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(MADE + b"\n" + json.dumps(row).encode() + b"\n")
    with pytest.raises(UserError, match=r"journal\.jsonl: line 2 is not about a trial; remove"):
        Journal(path)


def test_a_link_is_not_cut(tmp_path: Path) -> None:
    path, precious = tmp_path / "journal.jsonl", tmp_path / "token"
    precious.write_bytes(b"secret")
    path.symlink_to(precious)
    with pytest.raises(OSError, match="symbolic links"):
        Journal(path)
    assert precious.read_bytes() == b"secret"
