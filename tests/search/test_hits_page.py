"""Table of hits: what is seen of it in 80 columns."""

import pytest

from xmodal.search.hits_page import print_hits
from xmodal.search.query import Hit


def test_captions_have_room_in_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    caption, labels = "a large blue star over a disc", ["circle", "star"]
    hit = Hit(3, 0.9, 3, "000000003", caption, "val-000000.tar", labels, None, 96, 96)
    print_hits([hit])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= 80
    (row,) = [line for line in lines if "000000003" in line]
    assert caption in row
    assert row.endswith("val-000000.tar")
    assert lines[lines.index(row) + 1] == "circle, star"
