"""What a sweep leaves: a table, a recipe, a page, and what TensorBoard shows."""

import csv
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.services.browser import HOSTILE, RUN, SHOWN, Browser, assert_harmless
from tests.tuning.sweeps import DECAY, LR
from xmodal.assembly.recipe import read_recipe
from xmodal.errors import UserError
from xmodal.tuning.config import SpaceConfig
from xmodal.tuning.folder import make_folder
from xmodal.tuning.journal import Journal
from xmodal.tuning.report import _table, _write_page, report
from xmodal.tuning.space import read_space
from xmodal.tuning.trial import Plan

KEYS = {
    LR: {"log_uniform": [1e-4, 1e-2]},
    "data.crop": {"choice": [None, [0.5, 1.0]]},
    DECAY: {"uniform": [0.0, 0.2]},
}


@pytest.fixture
def plan(recipe: Path, space: Callable[..., Path], tmp_path: Path) -> Plan:
    read = read_recipe(str(recipe), [], recipe.parent)
    found, folder = read_space(space(space=KEYS), read), tmp_path / "sweep"
    make_folder(folder, read, found)
    return Plan(read, found, "relevance/rsum", folder, Path.cwd())


def add(journal: Journal, name: str, rate: float, values: list[float], end: str) -> None:
    journal.add(name, {"values": {LR: rate, "data.crop": None, DECAY: 0.1}})
    for number, value in enumerate(values, 1):
        share = {"samples": 192 * number, "progress": number / 4}
        journal.add(name, {"value": value, "step": 6 * number} | share)
    journal.add(name, {"end": end, "line": "the loss is nan" if end == "failed" else ""})


def test_everything_is_told(plan: Plan, capsys: pytest.CaptureFixture[str], recipe: Path) -> None:
    journal = Journal(plan.folder / "journal.jsonl")
    add(journal, "000", 0.05, [10.0, 20.0, 30.0, 35.0], "finished")  # out of the space
    add(journal, "001", 1e-3, [20.0, 50.0, 40.0], "stopped")
    add(journal, "002", 1e-2, [], "failed")
    journal.add(
        "001",
        {"weights": "000", "step": 12, "values": {LR: 2e-3, "data.crop": [0.5, 1.0], DECAY: 0.2}},
    )
    report(plan, journal)

    with (plan.folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == ["001", "000", "002"]
    assert [row["relevance/rsum"] for row in rows] == ["50", "35", ""]
    assert (rows[0]["step"], rows[0][LR], rows[0]["data.crop"]) == ("12", "0.002", "[0.5, 1.0]")
    assert "weights of 000 at step 12" in rows[0]["note"]
    assert "the loss is nan" in rows[2]["note"]
    printed = capsys.readouterr().out
    assert re.search(r"001 +50 +12 +0.002 +\[0.5, 1.0\] +0.2 +stopped", printed)

    best = read_recipe(str(plan.folder / "best.yaml"), [], recipe.parent)
    assert best.stages[0].optimizer.lr == 2e-3
    assert best.data.crop == (0.5, 1.0)
    assert best.run == "runs/best"
    said = (plan.folder / "best.yaml").read_text().splitlines()
    assert "relevance/rsum 50, step 12" in said[0]

    page = (plan.folder / "report" / "index.html").read_text()
    assert page.count("<svg") == 2 + len(KEYS)
    assert not re.search(r'(src|href)="(?!data:)', page)
    for name, lines in (("000", 2), ("001", 2), ("002", 0)):
        assert page.count(f"<title>trial {name}</title>") == lines
    Balanced().feed(page)

    board = EventAccumulator(str(plan.run("001").tensorboard))
    board.Reload()
    assert board.Scalars("best/relevance/rsum")[0].value == 50
    assert {"_hparams_/experiment", "_hparams_/session_start_info"} <= {*board.summary_metadata}


@pytest.mark.browser
def test_hostile_text_is_shown_and_does_nothing(
    recipe: Path, space: Callable[..., Path], tmp_path: Path, browser: Browser
) -> None:
    texts = [text for text in HOSTILE if "\ud800" not in text]
    key, read = "method.text_tower", read_recipe(str(recipe), [], recipe.parent)
    found = SpaceConfig.model_validate(
        {"metric": "rsum", "space": {key: {"choice": texts}}, "trials": 1}
    )
    folder = tmp_path / f"<img src=x onerror={RUN}>"
    folder.mkdir()
    (folder / "space.yaml").write_text(repr(texts))
    plan = Plan(read, found, f"relevance/rsum{texts[0]}", folder, Path.cwd())
    journal = Journal(folder / "journal.jsonl")
    for number, text in enumerate(texts):
        name = f"{number:03}"  # a journal of other names is refused
        journal.add(name, {"values": {key: text}})
        journal.add(name, {"value": 1.0, "step": 1, "samples": 1, "progress": 1.0})
        journal.add(name, {"end": "failed", "line": text})
    _write_page(plan, [*journal.trials.values()], *_table(plan, [*journal.trials.values()]), "a: b")
    page = browser.open(folder / "report" / "index.html")
    assert_harmless(page, f"Sweep {folder.name}")
    for text, shown in zip(HOSTILE, SHOWN, strict=True):
        assert text not in texts or page.text.count(shown) >= 3, text


class Balanced(HTMLParser):
    """Fails where an element ends that has not begun."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
        if tag not in {"meta", "link", "img", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_where_all_failed_it_says_why(plan: Plan) -> None:
    journal = Journal(plan.folder / "journal.jsonl")
    add(journal, "000", 1e-3, [], "failed")
    with pytest.raises(UserError, match=r"no trial of .* was measured: the loss is nan"):
        report(plan, journal)
    assert not (plan.folder / "best.yaml").exists()
    assert (plan.folder / "trials.csv").exists()
