"""Comparison of evaluations: differences, their obstacles, queries that differ, the page."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.services.browser import HOSTILE, SHOWN, Browser, assert_harmless
from xmodal.evaluation.metrics.ranking import Ranks
from xmodal.evaluation.metrics.recall import recall_metrics
from xmodal.evaluation.per_query import NOWHERE, PerQuery
from xmodal.evaluation.report.comparison import Compared, notes, tables
from xmodal.evaluation.report.comparison_page import print_comparison, write_page
from xmodal.evaluation.report.disagreements import Disagreement, Disagreements, disagreements
from xmodal.evaluation.retrieved import Part

IMAGES, CAPTIONS = 60, 2


def measured(**changes: Any) -> dict[str, Any]:
    shards = {"url": "data/val", "fingerprint": "sha256-1", "samples": 60, "relevance": None}
    whole = {"checkpoint": "step-9", "data": shards, "gallery": None, "templates": ["a {}."]}
    return whole | {"all_pairs": 9, "shortlist": 1} | changes


def run_of(name: str, seed: int, best: int = 0, **changes: Any) -> Compared:
    """An evaluation of random ranks; the less they are, the greater `best`."""
    rng = torch.Generator().manual_seed(seed)
    texts = torch.arange(IMAGES * CAPTIONS)
    pairs = torch.stack([texts // CAPTIONS, texts], 1)
    images, captions = (
        (torch.randint(30, (n,), generator=rng) - best).clamp(min=0) for n in (IMAGES, len(texts))
    )
    metrics = recall_metrics(Ranks(images, captions), pairs, "relevance")
    numbers = torch.arange(IMAGES)
    found = [
        PerQuery("relevance/image_to_text", "image", numbers, numbers * 0, {"recall": images}),
        PerQuery(
            "relevance/text_to_image",
            "caption",
            pairs[:, 0],
            texts % CAPTIONS,
            {"recall": captions},
        ),
    ]
    history = [{"step": step, "loss": 3.0 - step / 10 - best / 100} for step in range(9)]
    one = Compared(name, metrics, measured(), {one.name: one for one in found}, history)
    return replace(one, **changes)


def test_differences_are_paired_over_queries() -> None:
    first, other = run_of("a", 0), run_of("b", 0, best=3)
    (table,) = tables([first, other])
    assert table.protocol == "relevance"
    assert notes([first, other]) == []
    for metric, (before, after) in table.rows.items():
        assert before.difference is None
        assert after.difference is not None
        expected = other.metrics[metric] - first.metrics[metric]
        assert after.difference.value == pytest.approx(expected)
        if metric.endswith("median_rank"):
            assert after.difference.interval is None
            continue
        low, high = after.difference.interval or (1, 0)
        assert low <= expected <= high
        # Ranks are the same but for a shift, so that no query is answered worse.
        assert low >= 0
        assert after.difference.verdict in ("better", "")
    assert table.rows["relevance/rsum"][1].difference.verdict == "better"
    # Unpaired evaluations of other ranks differ more widely.
    (wide,) = tables([first, run_of("c", 5, best=3)])
    spreads = []
    for found in (table, wide):
        difference = found.rows["relevance/rsum"][1].difference
        assert difference is not None
        assert difference.interval is not None
        spreads.append(difference.interval[1] - difference.interval[0])
    assert spreads[0] < spreads[1]


def test_the_mean_of_both_directions_has_an_interval() -> None:
    runs = []
    for name in "ab":
        values = {
            direction: torch.arange(50.0).double() + (name == "b") * step
            for direction, step in (("image_to_text", 2.0), ("text_to_image", 4.0))
        }
        numbers = torch.arange(50)
        found = {
            f"class/{direction}": PerQuery(
                f"class/{direction}", "image", numbers, numbers * 0, values={"map": own}
            )
            for direction, own in values.items()
        }
        metrics = {f"class/{direction}/map": float(own.mean()) for direction, own in values.items()}
        metrics["class/map"] = sum(metrics.values()) / 2
        runs.append(Compared(name, metrics, measured(), found))
    (table,) = tables(runs)
    difference = table.rows["class/map"][1].difference
    assert difference is not None
    assert difference.value == pytest.approx(3)
    assert difference.interval == pytest.approx((3, 3))


def test_the_same_evaluation_does_not_differ() -> None:
    first = run_of("a", 0)
    (table,) = tables([first, replace(first, name="b")])
    for metric, (_, same) in table.rows.items():
        assert same.difference is not None
        assert same.difference.value == 0
        expected = None if metric.endswith("median_rank") else (0, 0)
        assert same.difference.interval == expected
        assert same.difference.verdict == ""
    assert disagreements([first, replace(first, name="b")]) == []


OTHER_DATA = {"url": "data/test", "fingerprint": "sha256-2", "samples": 60, "relevance": None}


def test_what_cannot_be_compared_is_a_line() -> None:
    first = run_of("a", 0)
    moved = {**measured()["data"], "url": "elsewhere/val"}
    others = [
        run_of("data", 1, measured=measured(data=OTHER_DATA)),
        run_of("old", 1, measured=None),
        run_of("queries", 1, per_query=None),
        run_of("templates", 1, measured=measured(templates=["the {}."])),
        run_of("moved", 1, measured=measured(data=moved)),
    ]
    lines = notes([first, *others])
    assert lines == [
        "data: measured on other data (data/test) than a (data/val): no differences",
        "old: an earlier version wrote its results, without what they are of",
        "queries: no results of its queries, so that differences have no intervals; evaluate it "
        "again",
        "templates: other templates than a",
    ]
    (table,) = tables([first, *others])
    cells = table.rows["relevance/rsum"]
    assert [cell.difference is None for cell in cells] == [True, True, True, False, False, False]
    assert [bool(c.difference and c.difference.interval) for c in cells[3:]] == [False, True, True]


def test_other_skipped_samples_have_no_intervals() -> None:
    first, other = run_of("a", 0), run_of("b", 1)
    assert other.per_query is not None
    images = other.per_query["relevance/image_to_text"]
    fewer = images.of(torch.arange(1, IMAGES), images.name)
    other = replace(other, per_query={**other.per_query, images.name: fewer})
    assert notes([first, other]) == ["b: other samples were skipped than of a: no intervals"]
    (table,) = tables([first, other])
    for metric, has in (("image_to_text/recall@1", False), ("text_to_image/recall@1", True)):
        difference = table.rows[f"relevance/{metric}"][1].difference
        assert difference is not None
        assert (difference.interval is not None) == has


def test_a_protocol_that_one_lacks_is_a_line() -> None:
    first = run_of("a", 0)
    metrics = {**first.metrics, "gap/centroid_distance": 0.5, "gap/pairs": 60.0}
    other = run_of("b", 1, metrics=metrics)
    relevance, gap = tables([first, other])
    assert relevance.notes == []
    assert gap.notes == ["a was not measured by gap"]
    assert [cell.value for cell in gap.rows["gap/centroid_distance"]] == [None, 0.5]


def test_queries_that_differ_most_come_first() -> None:
    first, other = run_of("a", 0), run_of("b", 0)
    assert first.per_query is not None
    ranks = first.per_query["relevance/image_to_text"].ranks["recall"].clone()
    ranks[:5] = torch.tensor([0, 0, 9, 40, 5])
    changed = ranks.clone()
    changed[:5] = torch.tensor([99, 1, 0, 0, NOWHERE])
    pair = []
    for run, own in ((first, ranks), (other, changed)):
        assert run.per_query is not None
        images = replace(run.per_query["relevance/image_to_text"], ranks={"recall": own})
        pair.append(replace(run, per_query={**run.per_query, images.name: images}))
    better, worse = disagreements(pair)
    assert (better.verdict, worse.verdict) == ("better", "worse")
    assert [(q.part.number, q.results) for q in better.queries] == [
        (3, ("rank 41", "rank 1")),
        (2, ("rank 10", "rank 1")),
    ]
    assert [(q.part.number, q.results) for q in worse.queries] == [
        (4, ("rank 6", "not found")),
        (0, ("rank 1", "rank 100")),
        (1, ("rank 1", "rank 2")),
    ]


def test_a_table_is_printed_and_curves_lie_over_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [run_of("[/red]", 0), run_of("b", 0, best=3)]
    found = tables(runs)
    page = tmp_path / "report" / "index.html"
    write_page(page, "mine", runs, found, ["a line"], disagreements(runs))
    print_comparison(runs, found, ["a line"], page)
    said = capsys.readouterr().out
    assert re.search(r"\[/red\] +[\d.]+ *\n", said)
    assert re.search(r" b +[\d.]+ +\+[\d.]+ +\+[\d.]+ to \+[\d.]+ *\n", said)
    assert "a line\n" in said
    text = page.read_text()
    for place in (0, 1):
        assert text.count(f'<polyline class="smooth line-{place}"') == 1
    assert text.count('class="difference better"') >= 1


def test_the_legend_names_what_is_drawn_and_keys_are_counted(tmp_path: Path) -> None:
    runs = [run_of("a", 0, history=[]), run_of("b", 1, recipe=["x"]), run_of("c", 2)]
    runs[2] = replace(runs[2], recipe=["x", "y"])
    page = tmp_path / "report" / "index.html"
    write_page(page, "mine", runs, tables(runs), [], [])
    text = page.read_text()
    legend = text.partition("<h2>Training</h2>")[2].partition("</p>")[0]
    assert re.findall(r'line-(\d)">(\w)<', legend) == [("1", "b"), ("2", "c")]
    assert "a has no training log, and no curves" in text
    assert "1 key differs from a<" in text
    assert "2 keys differ from a<" in text


def hostile_page(path: Path) -> Path:
    texts = " ".join(HOSTILE)
    picture = np.zeros((8, 8, 3), np.uint8)
    shards = {"url": texts, "fingerprint": texts}
    named = {f"aro/{text}": run_of("", 0).metrics["relevance/rsum"] for text in HOSTILE}
    metrics = {f"{name}/accuracy": value for name, value in named.items()}
    metrics |= {"aro/accuracy": 1.0, "aro/num_captions": 1.0}
    numbers = torch.arange(2)
    per_query = {
        name: PerQuery(
            name, "caption", numbers, numbers, values={"accuracy": torch.tensor([0.0, 100.0])}
        )
        for name in named
    }
    runs = [
        Compared(
            f"{texts} {n}", metrics, measured(data=shards, checkpoint=texts), per_query, [], [texts]
        )
        for n in range(2)
    ]
    found = [Disagreement(Part(0), ("wrong", texts), picture, text) for text in HOSTILE]
    shown = [Disagreements(texts, texts, texts, "better", found)]
    write_page(path, texts, runs, tables(runs), [texts], shown)
    return path


@pytest.mark.browser
def test_hostile_text_is_shown_and_does_nothing(tmp_path: Path, browser: Browser) -> None:
    page = browser.open(hostile_page(tmp_path / "report" / "index.html"))
    assert_harmless(page, " ".join(SHOWN))
    for text in SHOWN:
        assert page.text.count(text) >= 8, text


@pytest.mark.browser
def test_the_page_fits_a_telephone(tmp_path: Path, browser: Browser) -> None:
    runs = [run_of("runs/the-first-of-all", 0), run_of("b", 0, best=3)]
    page = tmp_path / "report" / "index.html"
    write_page(page, "mine", runs, tables(runs), [], disagreements(runs))
    seen = (
        "<script nonce='x'>addEventListener('load', () => document.title += ' ' + innerWidth + ' ' "
        "+ document.documentElement.scrollWidth)</script>"
    )
    text = page.read_text().replace("style-src", "script-src 'nonce-x'; style-src")
    page.write_text(text.replace("<title>", f"{seen}<title>"))
    title, width, content = browser.open(page, width=400).title.split()
    assert title == "mine"
    assert int(width) <= 500  # what browsers without a window are at least
    assert int(content) <= int(width)
