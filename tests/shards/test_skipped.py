"""Lists of skipped samples: read under their new and their old name."""

import json
from pathlib import Path

from shards.skipped import read_skipped


def test_lists_of_earlier_builds_are_read_and_newer_ones_replace_them(tmp_path: Path) -> None:
    def write(name: str, cause: str) -> None:
        (tmp_path / name).write_text(json.dumps([["a", cause, ""]]))

    write("train-000000.left_out.json", "missing")
    assert read_skipped(str(tmp_path)) == [("a", "missing", "")]
    write("train-000000.skipped.json", "empty")
    write("source.left_out.json", "duplicate")
    assert read_skipped(str(tmp_path)) == [("a", "duplicate", ""), ("a", "empty", "")]
    assert read_skipped(str(tmp_path), "train-") == [("a", "empty", "")]
