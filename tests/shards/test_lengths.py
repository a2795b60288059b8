"""The lengths of texts are measured by a command."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.shard_sets import numbered, write_shards

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_the_texts_of_shards_are_measured(tmp_path: Path, run: Run) -> None:
    manifest = write_shards(tmp_path, [numbered(3), numbered(12, captions=1)])
    done = run("lengths", tmp_path, "--workers", 2)
    said = f"lengths of the texts of 15 samples are beside the tars of {tmp_path}"
    assert done.stdout == said + "\n"
    assert "lengths: 2 of 2" in done.stderr
    found = json.loads((tmp_path / "set-000001.lengths").read_text())
    assert found["index"] == manifest.index_digests[1]
    assert found["texts"]["captions"] == {"counts": [1] * 12, "lengths": [3] * 10 + [4] * 2}


def test_shards_without_an_index_are_one_line(tmp_path: Path, run: Run) -> None:
    done = run("lengths", tmp_path / "nothing", code=2)
    assert done.stderr.count("\n") == 1
