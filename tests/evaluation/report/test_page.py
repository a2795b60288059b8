"""Pages with text of others in them, opened by a browser: it is shown, and does nothing."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.services.browser import HOSTILE, RUN, SHOWN, Browser, assert_harmless
from xmodal.evaluation.report.measured import Measured, ShardSet
from xmodal.evaluation.report.page import HERE, render
from xmodal.evaluation.report.results import write_results
from xmodal.evaluation.report.run_report import Example, Hit, retrieval_sheet, write_report


@pytest.fixture
def hostile_run(tmp_path: Path) -> Path:
    """The report of a run whose captions, labels, names, URLs and recipe are hostile."""
    picture = np.zeros((8, 8, 3), np.uint8)
    examples = [
        Example(None if number % 2 else picture, text, [Hit(picture, True, 0.5)], 0)
        for number, text in enumerate(HOSTILE)
    ]
    examples += [Example(picture, None, [Hit(text, False, 0.5) for text in HOSTILE], 3)]
    metrics = {f"fashion-iq/{text}/recall@{k}": 1.0 for text in HOSTILE for k in (10, 50)}
    metrics |= {f"fashion-iq/recall@{k}": 1.0 for k in (10, 50)}
    metrics |= {f"{name}_chance": 0.5 for name in metrics}
    metrics |= {f"fashion-iq/{name}": 1.0 for name in ("num_queries", "num_images")}
    metrics |= {"fashion-iq/median_rank": 1.0, "fashion-iq/num_without_target": 0.0}
    metrics |= dict.fromkeys(HOSTILE, 1.0)
    everything = " ".join(HOSTILE)
    shards = ShardSet(everything, everything, 1)
    measured = Measured(everything, None, shards, shards, HOSTILE, HOSTILE, 1, 1)
    write_results(tmp_path, everything, metrics, examples, measured, recipe=everything, history=[])
    return tmp_path / "report" / "index.html"


@pytest.mark.browser
def test_hostile_text_is_shown_and_does_nothing(hostile_run: Path, browser: Browser) -> None:
    page = browser.open(hostile_run)
    assert_harmless(page, " ".join(SHOWN))
    for text in SHOWN:
        # The title and heading, what was measured twice, a query, a caption that was found, the
        # recipe, and names of metrics.
        assert page.text.count(text) >= 8, text


WALL = f"""<script>{RUN}</script><img src=x onerror="{RUN}"><svg onload="{RUN}"></svg>
<style>h1 {{ display: none }}</style><h1 style="position: fixed">x</h1>"""


@pytest.mark.browser
def test_what_escaping_missed_would_not_run(tmp_path: Path, browser: Browser) -> None:
    page = tmp_path / "page.html"
    page.write_text(render(HERE / "page.html", "mine").replace("<main>", f"<main>{WALL}"))
    assert browser.open(page).title == "mine"
    # Without the policy it does run, so that this can fail.
    text = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text())
    page.write_text(text)
    assert browser.open(page).title == "owned"


@pytest.mark.browser
def test_the_policy_lets_our_own_style_in(tmp_path: Path, browser: Browser) -> None:
    """Chromium reports what a policy keeps out to the page; ours keeps nothing of it out."""
    page = tmp_path / "page.html"
    seen = (
        "<script nonce='x'>addEventListener('securitypolicyviolation', e => document.title += "
        "' ' + e.effectiveDirective); addEventListener('load', () => document.title += ' ' + "
        "getComputedStyle(document.querySelector('main')).maxWidth)</script>"
    )
    text = render(HERE / "page.html", "mine").replace(
        "style-src", "script-src 'nonce-x'; style-src"
    )
    page.write_text(text.replace("<title>", f"{seen}<title>"))
    assert browser.open(page).title == "mine 1040px"


def test_pictures_of_hostile_captions_are_drawn() -> None:
    hit = Hit(np.zeros((8, 8, 3), np.uint8), True, 0.5)
    assert retrieval_sheet([Example(None, text, [hit], 0) for text in HOSTILE]) is not None


def test_a_report_holds_no_characters_that_cannot_be_seen(tmp_path: Path) -> None:
    page = write_report(tmp_path, "\0\x1b\u202e\ud800", {}, [], [], "a: 1\nb: 2\n").read_text()
    assert re.search(r"<title>\\x00\\x1b\\u202e\\ud800</title>", page)
    assert "<pre>a: 1\nb: 2\n</pre>" in page
