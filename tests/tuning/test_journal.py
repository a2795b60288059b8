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
    with pytest.raises(UserError, match=r"journal\.jsonl: line 2 tells nothing of a trial; remove"):
        Journal(path)
