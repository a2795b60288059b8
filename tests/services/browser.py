"""A real browser, without a window: what it makes of a page."""

import shutil
import subprocess
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

from xmodal.errors import printable

PROGRAM = "chromium"
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--virtual-time-budget=5000", "--dump-dom"),
)

RUN = "document.title='owned'"
HOSTILE = [
    f"<script>{RUN}</script>",
    f'"><img src=x onerror="{RUN}">',
    f"'><svg onload={RUN}>",
    f"</style></title></pre></textarea><script>{RUN}</script>",
    f'<a href="javascript:{RUN}">text</a>',
    f'<iframe srcdoc="<script>parent.{RUN}</script>"></iframe>',
    f'<meta http-equiv=refresh content="0;url=javascript:{RUN}">',
    "{{ 7 * 7 }} {% raw %} ${7 * 7}",
    "&lt;b&gt; &amp; &#x3c;",
    "right \u202eto left\u202c \u2066isolated",
    "a\0b\x1b[31mred\r\b",
    "half a pair \ud800",
    "\u0627\u0644\u0639 中文 🙂",
]
# What stands in the page where one of them is written.
SHOWN = ["\n".join(map(printable, text.split("\n"))) for text in HOSTILE]


def missing_programs() -> list[str]:
    """Return what is needed and not here."""
    return [] if shutil.which(PROGRAM) else [PROGRAM]


@dataclass
class Shown(HTMLParser):
    """A page as the browser has it once all has run that runs: its elements and their text."""

    source: str
    tags: list[str] = field(default_factory=list)
    text: str = ""
    title: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] == ["title"] and not self.title:
            self.title = data
        self.text += data


class Browser:
    """Opens pages, each with a profile that is thrown away."""

    def __init__(self, profiles: Path) -> None:
        self.profiles = profiles

    def open(self, page: Path, width: int = 800) -> Shown:
        """Return a page's elements and text after five seconds of its own time, in a window of a
        width.
        """
        profile = self.profiles / f"profile-{len(list(self.profiles.iterdir()))}"
        dumped = subprocess.run(
            [
                PROGRAM,
                *OPTIONS,
                f"--window-size={width},600",
                f"--user-data-dir={profile}",
                page.absolute().as_uri(),
            ],
            capture_output=True,
            timeout=100,
        )
        assert dumped.returncode == 0, dumped.stderr.decode(errors="replace")
        return Shown(dumped.stdout.decode())


def assert_harmless(page: Shown, title: str) -> None:
    assert page.title == title
    assert "owned" not in page.title.replace(RUN, "")
    assert not {"script", "iframe", "a", "textarea", "object", "form"} & set(page.tags)
    assert page.tags.count("meta") == 4
