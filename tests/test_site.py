"""The documentation site builds without a warning, and asks nothing of other servers."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMPONENTS = ("component.Component", "component.Buildable", "config.Config", "config.Mark")
# An element whose source a browser fetches, and from where.
FETCHED = re.compile(r"<(?:script|img|link|iframe)\b[^>]*?\b(?:src|href)=\"?(https?://[^\" >]*)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built in a folder of its own: broken links and anchors end the build."""
    if find_spec("zensical") is None and "CI" not in os.environ:
        pytest.skip("the site's generator is not installed: pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    for name in ("launch", "shards", "xmodal"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "docs", folder / "docs")
    shutil.copy(ROOT / "zensical.toml", folder)
    built = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"],
        cwd=folder,
        env=os.environ | {"NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "site"


def test_every_page_is_in_the_navigation(site: Path) -> None:
    listed = re.findall(r'"([\w/]+)\.md"', (ROOT / "zensical.toml").read_text())
    pages = {str(p.relative_to(ROOT / "docs").with_suffix("")) for p in ROOT.glob("docs/**/*.md")}
    assert sorted(listed) == sorted(pages)
    assert all((site / f"{page}.html").is_file() for page in pages)


def test_pages_fetch_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not FETCHED.findall(page.read_text()), page.name


def test_reference_has_the_keys_and_the_commands(site: Path) -> None:
    recipe = (site / "reference" / "recipe.html").read_text()
    assert "<code>batch_size</code>" in recipe
    anchors = re.findall(r'<h3 id="([^"]+)"', recipe)
    assert len(anchors) == len(set(anchors)) > 20
    assert "--checkpoint" in (site / "reference" / "commands.html").read_text()
    python = (site / "reference" / "python.html").read_text()
    assert "encode_images" in python
    assert all(f'id="xmodal.components.{name}"' in python for name in COMPONENTS)
