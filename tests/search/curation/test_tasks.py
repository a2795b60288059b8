"""Running of tasks: options, files, pages with text of others, and what an error leaves."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.search.curation.sets import made_set, scenes, unit, write_pictures, write_set
from xmodal.commands.curate import TASKS, main, read_arguments
from xmodal.errors import UserError
from xmodal.search.curation import tasks
from xmodal.search.searcher import Searcher

HOSTILE = "<script>alert(1)</script> \"'><img src=x onerror=alert(2)> \x1b[31m ../../etc/passwd"


@pytest.fixture
def embeddings(tmp_path: Path) -> Path:
    captions = [(row, f"caption {row}") for row in range(12)]
    return write_set(tmp_path / "embeddings", unit(12, 6), unit(12, 6, seed=1), captions)


def test_every_task_writes_its_files(
    embeddings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {
        "duplicates": ["--rule", "embeddings", "--similarity", "0.99"],
        "leakage": ["--against", str(embeddings), "--rule", "embeddings", "--similarity", "1"],
        "clip-score": ["--best", "0.5"],
        "outliers": ["--neighbours", "3"],
        "confused": ["--number", "4"],
        "clusters": ["--number", "3"],
        "mine": ["--number", "2", "--margin", "-2"],
    }
    files = {
        "duplicates": {"pairs.parquet", "groups.parquet"},
        "leakage": {"pairs.parquet"},
        "clip-score": {"scores.parquet"},
        "outliers": {"distances.parquet"},
        "confused": {"pairs.parquet"},
        "clusters": {"clusters.parquet"},
        "mine": {"hard.parquet"},
    }
    assert options.keys() | {"keep-list"} == TASKS.keys() == tasks.TASKS.keys()
    for task, given in options.items():
        to = tmp_path / task
        main([task, str(embeddings), *given, "--to", str(to)])
        written = {path.name for path in to.iterdir()}
        keep = set() if task == "mine" else {"keep.parquet"}
        assert written == files[task] | keep | {"report.html", "curation.json"}
        record = json.loads((to / "curation.json").read_text())
        assert (record["task"], record["embeddings"]) == (task, str(embeddings))
        printed = capsys.readouterr().out
        assert all(value in printed for value in record["found"].values())
        assert str(to) in printed


def test_an_index_is_taken_as_it_is(embeddings: Path, tmp_path: Path) -> None:
    tasks.open_set(str(embeddings), tmp_path / "index")
    for name, of in (("one", embeddings), ("two", tmp_path / "index")):
        main(["outliers", str(of), "--to", str(tmp_path / name)])
    tables = [pq.read_table(tmp_path / name / "distances.parquet") for name in ("one", "two")]
    assert tables[0] == tables[1]
    assert tables[0].column_names == ["shard", "key", "distance"]


def test_wrong_options_are_one_line(embeddings: Path, tmp_path: Path) -> None:
    to = ["--to", str(tmp_path / "to")]
    wrong = {
        "--rule embeddings needs --similarity": ["duplicates", "x", "--rule", "embeddings", *to],
        "give one of --threshold SCORE and --best SHARE": ["clip-score", "x", *to],
        "is no share between 0 and 1": ["clip-score", "x", "--best", "30", *to],
        "7 is no similarity: -1 to 1": ["duplicates", "x", "--similarity", "7", *to],
        "nan is no similarity": ["duplicates", "x", "--similarity", "nan", *to],
        "9 is no similarity": ["clip-score", "x", "--threshold", "9", *to],
        "-3 is no number from 0": ["outliers", "x", "--deviations", "-3", *to],
        "5 is no difference of similarities: -2 to 2": ["mine", "x", "--margin", "5", *to],
        "is less than 1": ["mine", "x", "--number", "0", *to],
        "exists; name a folder that does not": ["outliers", "x", "--to", str(tmp_path)],
        "name a folder on a disk": ["outliers", "x", "--to", "s3://bucket/to"],
        "required: --against": ["leakage", "x", *to],
    }
    for message, words in wrong.items():
        with pytest.raises(UserError, match=message):
            read_arguments(words)
    with pytest.raises(UserError, match=r"has no embeddings\.json"):
        main(["outliers", str(tmp_path / "nothing"), *to])
    assert {path.name for path in tmp_path.iterdir()} == {"embeddings"}


def test_what_would_keep_nothing_is_refused(embeddings: Path, tmp_path: Path) -> None:
    to = ["--to", str(tmp_path / "to")]
    with pytest.raises(UserError, match="all 12 samples would be removed"):
        main(["clip-score", str(embeddings), "--threshold", "1", *to])
    with pytest.raises(UserError, match="no sample has a hard negative at --margin 2"):
        main(["mine", str(embeddings), "--margin", "2", *to])
    assert {path.name for path in tmp_path.iterdir()} == {"embeddings"}


def test_an_error_leaves_nothing(
    embeddings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise UserError("no")

    monkeypatch.setitem(tasks.TASKS, "outliers", fail)
    with pytest.raises(UserError, match="no"):
        main(["outliers", str(embeddings), "--to", str(tmp_path / "to")])
    assert {path.name for path in tmp_path.iterdir()} == {"embeddings"}
    (tmp_path / "to.part").mkdir()
    (tmp_path / "to.part" / "mine").touch()
    with pytest.raises(UserError, match=r"to\.part is in the way"):
        main(["outliers", str(embeddings), "--to", str(tmp_path / "to")])
    assert (tmp_path / "to.part" / "mine").exists()


def test_text_of_others_is_shown_as_text(tmp_path: Path) -> None:
    pictures = scenes(2)
    folder = write_pictures(tmp_path, [*pictures, *pictures], HOSTILE)
    main(["duplicates", str(folder), "--to", str(tmp_path / "to")])
    page = (tmp_path / "to" / "report.html").read_text()
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 8  # alt and caption
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "\x1b" not in page
    assert page.count("data:image/jpeg") == 4


def test_a_picture_that_cannot_be_read_is_said_to_be_missing(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "made", unit(3, 4), shard=["../../etc"] * 3)
    main(["outliers", str(folder), "--to", str(tmp_path / "to")])
    assert (tmp_path / "to" / "report.html").read_text().count("no picture") == 3


def test_a_learned_score_is_said_not_to_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tasks, "is_learned", lambda kind: kind == "clip")
    assert isinstance(made_set(tmp_path, unit(3, 4)), Searcher)
    assert "clip scores by a network; curation compares embeddings" in capsys.readouterr().out


def test_sets_without_images(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no images"):
        made_set(tmp_path, np.zeros((0, 4), np.float32))


def test_help_is_answered_without_pytorch() -> None:
    code = (
        "import sys; from xmodal.commands.curate import read_arguments\n"
        "try: read_arguments(['mine', '--help'])\n"
        "finally: assert 'torch' not in sys.modules and 'faiss' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "hard negatives" in done.stdout.lower()
