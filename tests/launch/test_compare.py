"""`launch/compare.py` on a run and another checkpoint of it."""

import shutil
from pathlib import Path

import pytest

from tests.commands import evaluate
from tests.run_folders import results
from xmodal.commands.compare import main
from xmodal.errors import UserError
from xmodal.evaluation.report.query_file import FILE


@pytest.fixture(scope="module")
def earlier(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of an earlier checkpoint of the run."""
    folder = tmp_path_factory.mktemp("results") / "earlier"
    done = evaluate(finished, "--checkpoint", "step-18", "--output", folder)
    assert done.code == 0, done.err
    return folder


def test_a_run_beside_an_earlier_checkpoint(
    finished: Path, earlier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "compared"
    main([str(earlier), str(finished), "--to", str(to)])
    said = capsys.readouterr().out
    difference = results(finished)["relevance/rsum"] - results(earlier)["relevance/rsum"]
    assert f"{difference:+.2f}" in said
    assert " to " in said
    page = to / "report" / "index.html"
    assert said.endswith(f"report: {page}\n")
    text = page.read_text()
    assert "step-18" in text
    assert "step-24" in text
    assert "data:image/jpeg;base64," in text
    assert "Queries that finished answers better than earlier" in text
    with pytest.raises(UserError, match=f"--to {to} is there already; name a new folder"):
        main([str(earlier), str(finished), "--to", str(to)])


def test_results_of_an_earlier_version_have_no_intervals(
    finished: Path, earlier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = shutil.copytree(earlier, tmp_path / "old")
    (old / FILE).unlink()
    main([str(old), str(finished), "--to", str(tmp_path / "compared")])
    said = capsys.readouterr().out
    assert "old: no results of its queries, so that differences have no intervals" in said
    assert " to " not in said.partition("old: no")[0].partition("interval")[2]


def test_mistakes_are_one_line(finished: Path, tmp_path: Path) -> None:
    def fails(*words: object) -> str:
        with pytest.raises(UserError) as error:
            main([*map(str, words), "--to", str(tmp_path / "to")])
        return str(error.value)

    assert fails(finished) == "name 2 to 8 runs to compare, not 1"
    assert fails(finished, finished) == "a run is named twice; name each once"
    (tmp_path / "empty").mkdir()
    line = f"{tmp_path}/empty has no results.json; evaluate the run first"
    assert fails(finished, tmp_path / "empty").startswith(line)
    other = shutil.copytree(finished, tmp_path / "damaged")
    (other / FILE).write_bytes(b"\xff" * 100)
    assert fails(finished, other) == f"{other / FILE} is damaged; evaluate again, or remove it"
    assert not (tmp_path / "to").exists()
