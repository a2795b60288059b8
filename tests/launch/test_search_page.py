"""The page of an index that the commands made, from shards to the browser."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.commands import ROOT, run, train
from tests.launch.methods import SMALL_COMPOSED
from tests.services.browser import Browser
from tests.services.browser_tab import open_tab


@pytest.fixture(scope="module")
def index(queries: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index of a gallery by a model that composes queries."""
    folder = tmp_path_factory.mktemp("composed")
    trained = train(
        "tirg",
        f"run={folder / 'run'}",
        f"data.train={queries}/composed_train",
        "data.batch_size=8",
        "data.workers=0",
        *SMALL_COMPOSED,
        "stages.0.length=2 steps",
        "stages.0.schedule={kind: constant, warmup: 0}",
    )
    assert trained.code == 0, trained.err
    gallery = ["--data", queries / "composed_gallery", "--to", folder / "embeddings"]
    for done in (
        run("embed.py", folder / "run", *gallery),
        run("index.py", folder / "embeddings", "--to", folder / "index"),
    ):
        assert done.code == 0, done.err
    return folder / "index"


@contextmanager
def served(index: Path) -> Iterator[str]:
    """Start the command, and yield the address that it prints; Ctrl-C ends it cleanly."""
    words = [sys.executable, str(ROOT / "launch" / "search.py"), str(index), "--serve"]
    with subprocess.Popen([*words, "--port", "0"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            line = next(one for one in process.stdout if one.startswith("http://127.0.0.1:"))
            yield line.split()[0]
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.browser
def test_a_gallery_is_searched_by_images_and_their_modifications(
    index: Path, browser: Browser, tmp_path: Path
) -> None:
    ready = "!document.body.matches('.busy') && document.querySelectorAll('.hit').length > 0"
    hits = "[...document.querySelectorAll('.hit img')].map(one => new URL(one.src).pathname)"
    with served(index) as address, open_tab(tmp_path) as tab:
        tab.open(address)
        tab.wait(ready)
        listed = tab.evaluate(hits)
        tab.click(".hit:nth-child(5) .picture")
        tab.wait(f"location.search === '?like=4' && {ready}")
        alike = tab.evaluate(hits)
        tab.click("#modification")
        tab.type("make the circle red")
        tab.press("Enter")
        tab.wait(f"location.search.startsWith('?modification=make') && {ready}")
        composed = tab.evaluate(hits)
        assert listed[4] not in alike
        assert sorted(listed) == sorted(composed) == sorted([*alike, listed[4]])
        assert composed != listed
        images = "[...document.querySelectorAll('.hit img')]"
        tab.evaluate(f"{images}.forEach(one => (one.loading = 'eager'))")
        tab.wait(f"{images}.every(one => one.complete)")
        assert tab.evaluate(f"{images}.every(one => one.naturalWidth > 0)")
        assert tab.complaints == []
