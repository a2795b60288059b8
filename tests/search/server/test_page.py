"""The page of an index in a real browser: searches, keys, what it shows, what it does not run."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.search.server.colour_index import COLOURS, PICTURES, SHARD, colour_searcher, picture
from tests.search.server.running import serving
from tests.services.browser import HOSTILE, Browser
from tests.services.browser_tab import Tab, open_tab
from xmodal.search.server.server import SearchServer

pytestmark = pytest.mark.browser
CAPTIONS = [text for text in HOSTILE if "\0" not in text and text.isprintable()]
STATUS = "document.querySelector('#status').textContent"
CAPTIONS_SHOWN = "[...document.querySelectorAll('.hit .caption')].map(e => e.textContent)"
LABELS = f"{CAPTIONS_SHOWN}.map(text => text.split(' ')[1])"
IMAGES = "[...document.querySelectorAll('img[src]')]"
READY = "!document.body.matches('.busy') && document.querySelectorAll('.hit').length > 0"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SearchServer]:
    with serving(colour_searcher(tmp_path_factory.mktemp("colours"))) as running:
        yield running


@pytest.fixture(scope="module")
def browser_tab(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with open_tab(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def tab(browser_tab: Tab) -> Iterator[Tab]:
    """A tab whose console must show no error when the test is over."""
    browser_tab.complaints.clear()
    yield browser_tab
    browser_tab.evaluate("1")  # what was said until now has been heard
    assert browser_tab.complaints == []


def open_page(tab: Tab, server: SearchServer, search: str = "", **window: int) -> None:
    tab.open(f"{server.access.url}{search}", **window)  # type: ignore[arg-type]
    tab.wait(READY)


def search_for(tab: Tab, words: str, box: str = "#text") -> None:
    """Write into a box, and press Enter."""
    tab.click(box)
    tab.evaluate(f"document.querySelector('{box}').select()")
    tab.type(words)
    tab.press("Enter")


def all_of(tab: Tab, colour: str) -> None:
    """Wait until the hits are of one colour."""
    tab.wait(f"{READY} && {LABELS}.slice(0, 10).every(label => label === '{colour}')")


def assert_pictures_load(tab: Tab) -> None:
    """Every image that has an address has pixels once it has been in sight."""
    tab.evaluate(f"{IMAGES}.forEach(one => (one.loading = 'eager'))")
    tab.wait(f"{IMAGES}.length > 0 && {IMAGES}.every(one => one.complete)")
    assert tab.evaluate(f"{IMAGES}.filter(one => !one.naturalWidth).map(one => one.src)") == []
    assert tab.evaluate(f"{IMAGES}.filter(one => one.closest('.hit') && !one.alt).length") == 0


def test_search_by_text(tab: Tab, server: SearchServer) -> None:
    open_page(tab, server)
    assert "120 images in the index" in tab.evaluate(STATUS)
    search_for(tab, "something blue")
    all_of(tab, "blue")
    assert "something blue" in tab.evaluate(STATUS)
    assert tab.evaluate("location.search") == "?text=something+blue"
    assert tab.evaluate("document.title").startswith("“something blue”")
    assert_pictures_load(tab)


def test_all_hits_come_as_one_scrolls(tab: Tab, server: SearchServer) -> None:
    open_page(tab, server, "?text=red")
    assert tab.evaluate("document.querySelectorAll('.hit').length") < PICTURES
    tab.wait(
        "scrollTo(0, document.body.scrollHeight), "
        f"document.querySelectorAll('.hit').length === {PICTURES}"
    )
    keys = tab.evaluate("[...document.querySelectorAll('.hit img')].map(one => one.src)")
    assert len(set(keys)) == PICTURES
    assert_pictures_load(tab)


def test_search_by_an_uploaded_image_and_back(
    tab: Tab, server: SearchServer, tmp_path: Path
) -> None:
    file = tmp_path / """it's "<b>green" .jpg"""
    file.write_bytes(picture(COLOURS["green"], "JPEG"))
    open_page(tab, server, "?text=red")
    all_of(tab, "red")
    tab.choose("#file", file)
    all_of(tab, "green")
    assert tab.evaluate("document.querySelector('#chosen-name').textContent") == file.name
    assert_pictures_load(tab)
    tab.evaluate("history.back()")
    all_of(tab, "red")
    assert tab.evaluate("document.querySelector('#text').value") == "red"
    assert tab.evaluate("document.querySelector('#chosen').hidden")
    tab.evaluate("history.forward()")
    all_of(tab, "green")
    tab.reload()
    tab.wait(f"{STATUS}.startsWith('The uploaded image was not kept: choose it again.')")


def test_a_file_that_is_no_image_has_no_broken_picture(
    tab: Tab, server: SearchServer, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    open_page(tab, server)
    tab.choose("#file", tmp_path / "notes.txt")
    tab.wait("!document.querySelector('#chosen').hidden")
    tab.wait("document.querySelector('#chosen-image').hidden")
    tab.wait("document.querySelector('#error').textContent.includes('does not decode')")
    tab.complaints.clear()


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_search_by_an_image_that_is_dropped_or_pasted(
    tab: Tab, server: SearchServer, event: str
) -> None:
    open_page(tab, server)
    data = list(picture(COLOURS["blue"]))
    transfer = {"drop": "dataTransfer", "paste": "clipboardData"}[event]
    tab.evaluate(
        f"""(() => {{
        const files = new DataTransfer();
        files.items.add(new File([new Uint8Array({data})], "x.png", {{ type: "image/png" }}));
        const options = {{ {transfer}: files, bubbles: true, cancelable: true }};
        const made = "{event}" === "drop" ? new DragEvent("drop", options) : new ClipboardEvent("paste", options);
        document.querySelector("main").dispatchEvent(made);
        }})()"""  # noqa: E501
    )
    all_of(tab, "blue")
    assert tab.evaluate("document.querySelector('#drop').hidden")


def test_search_by_a_click_on_an_image(tab: Tab, server: SearchServer) -> None:
    open_page(tab, server)
    tab.click(".hit:nth-child(2) .picture")
    all_of(tab, "green")
    assert tab.evaluate("location.search") == "?like=1"
    assert "image 1" in tab.evaluate("document.querySelector('#chosen').textContent")
    assert_pictures_load(tab)
    tab.click("#remove")
    tab.wait(f"{STATUS}.includes('in the index')")


def test_filter_and_texts(tab: Tab, server: SearchServer) -> None:
    open_page(tab, server, "?text=red")
    search_for(tab, "label = 'blue'", "#where")
    all_of(tab, "blue")
    tab.click("#sides label:nth-of-type(2)")
    tab.wait("document.querySelector('#hits').className === 'texts'")
    all_of(tab, "blue")
    where = tab.evaluate("new URLSearchParams(location.search).get('where')")
    assert where == "label = 'blue'"
    assert tab.evaluate("new URLSearchParams(location.search).get('side')") == "texts"
    # The address alone shows the same to somebody else.
    shown = tab.evaluate(CAPTIONS_SHOWN)
    open_page(tab, server, tab.evaluate("location.search"))
    assert tab.evaluate(CAPTIONS_SHOWN) == shown
    assert tab.evaluate("document.querySelector('#where').value") == where
    search_for(tab, "label = 'none'", "#where")
    tab.wait(f"{STATUS} === 'Nothing meets the filter.'")


def test_a_sample_with_its_neighbours(tab: Tab, server: SearchServer) -> None:
    open_page(tab, server, "?text=red")
    all_of(tab, "red")
    tab.click(".hit:nth-child(3) .open")
    tab.wait("document.querySelectorAll('#neighbours img').length === 12")
    row = int(tab.evaluate("new URLSearchParams(location.search).get('sample')"))
    assert tab.evaluate("document.querySelector('#sample-title').textContent").endswith(f" {row}")
    assert SHARD in tab.evaluate("document.querySelector('#sample-fields').textContent")
    assert_pictures_load(tab)
    tab.click("#neighbours li:nth-child(2) button")
    tab.wait(f"new URLSearchParams(location.search).get('sample') !== '{row}'")
    closed = "!document.querySelector('#sample').open && !location.search.includes('sample')"
    tab.evaluate("history.back()")
    tab.wait(closed)
    tab.evaluate("history.forward()")
    tab.wait("document.querySelector('#sample').open")
    entries = tab.evaluate("history.length")
    for number in (4, 5):
        tab.press("Escape")
        tab.wait(closed)
        tab.click(f".hit:nth-child({number}) .open")
        tab.wait("document.querySelector('#sample').open")
    assert tab.evaluate("history.length") == entries
    all_of(tab, "red")
    tab.click("#sample-like")
    tab.wait("!document.querySelector('#sample').open && location.search.startsWith('?like=')")
    all_of(tab, "red")


def test_by_keys_alone(tab: Tab, server: SearchServer) -> None:
    open_page(tab, server)
    tab.press("/")
    assert tab.evaluate("document.activeElement.id") == "text"
    tab.type("green")
    tab.press("Enter")
    all_of(tab, "green")
    place = "[...document.querySelectorAll('.open')].indexOf(document.activeElement)"
    tab.press("ArrowDown")
    assert tab.evaluate(place) == 0
    tab.press("ArrowRight")
    tab.press("ArrowRight")
    assert tab.evaluate(place) == 2
    columns = tab.evaluate(
        "getComputedStyle(document.querySelector('#hits')).gridTemplateColumns.split(' ').length"
    )
    tab.press("ArrowDown")
    assert tab.evaluate(place) == 2 + columns
    assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.press("ArrowLeft")
    tab.press("Enter")
    tab.wait("document.querySelector('#sample').open")
    assert tab.evaluate("document.querySelector('#sample').contains(document.activeElement)")
    tab.press("Escape")
    tab.wait("!document.querySelector('#sample').open")
    assert tab.evaluate(place) == 1 + columns
    tab.press("ArrowUp")
    tab.press("ArrowUp")
    assert tab.evaluate("document.activeElement.id") == "text"


@pytest.mark.parametrize("search", ["", "?text=red", "?text=red&side=texts", "?like=2&sample=7"])
@pytest.mark.parametrize("width", [320, 400])
def test_narrow_windows_scroll_in_one_direction(
    tab: Tab, server: SearchServer, search: str, width: int
) -> None:
    open_page(tab, server, search, width=width, height=800)
    tab.wait("!location.search.includes('sample') || document.querySelector('#sample').open")
    root = "document.scrollingElement"
    assert tab.evaluate(f"{root}.scrollWidth - {root}.clientWidth") == 0
    # Whatever can be used is in sight.
    beyond = (
        "[...document.querySelectorAll('button, input:not(#file)')].filter(one => {"
        "const box = one.getBoundingClientRect();"
        "return box.width && (box.left < 0 || box.right > innerWidth) }).map(one => one.id)"
    )
    assert tab.evaluate(beyond) == []


def test_every_control_has_a_name(tab: Tab, server: SearchServer) -> None:
    open_page(tab, server, "?like=2")
    tree = tab.send("Accessibility.getFullAXTree")["nodes"]
    controls = ("button", "textbox", "searchbox", "radio", "image", "dialog")
    found = [one for one in tree if one.get("role", {}).get("value") in controls]
    assert len(found) > 40
    assert [one for one in found if not one["name"]["value"] and not one["ignored"]] == []


def test_mistakes_are_shown_in_a_line(tab: Tab, server: SearchServer) -> None:
    open_page(tab, server)
    search_for(tab, "lable = 1", "#where")
    shown = tab.wait(
        "!document.querySelector('#error').hidden && document.querySelector('#error').textContent"
    )
    assert shown.startswith("where: unknown column lable (did you mean label?)")
    search_for(tab, "label = 'red'", "#where")
    tab.wait(f"{READY} && document.querySelector('#error').hidden")
    open_page(tab, server, "?sample=99999")
    tab.wait(f"{READY} && document.querySelector('#error').textContent.includes('no row 99999')")
    assert not tab.evaluate("document.querySelector('#error').hidden")
    # A browser itself reports an answer that is a mistake; nothing else was reported.
    (line, lost) = tab.complaints
    assert "status of 400" in line
    assert "status of 404" in lost
    tab.complaints.clear()


def test_uploads_that_are_too_large_are_not_sent(
    tab: Tab, server: SearchServer, tmp_path: Path
) -> None:
    file = tmp_path / "large.png"
    with file.open("wb") as made:
        made.truncate(21 * 2**20)
    open_page(tab, server)
    tab.choose("#file", file)
    shown = tab.wait("document.querySelector('#error').textContent")
    assert shown == "large.png is too large: an image has at most 20 MiB."
    assert "in the index" in tab.evaluate(STATUS)


def test_an_image_is_modified(tab: Tab, browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "mine.png"
    file.write_bytes(picture(COLOURS["green"]))
    with serving(colour_searcher(tmp_path, composed=True)) as server:
        open_page(tab, server)
        assert tab.evaluate("document.querySelector('#text-box').hidden")
        tab.click(".hit .picture")  # a red one
        all_of(tab, "red")
        assert tab.evaluate("document.activeElement.id") == "modification"
        search_for(tab, "in blue", "#modification")
        all_of(tab, "blue")
        assert tab.evaluate("location.search") == "?modification=in+blue&like=0"
        tab.choose("#file", file)
        all_of(tab, "green")
        search_for(tab, "in red", "#modification")
        all_of(tab, "red")
        assert_pictures_load(tab)


def test_hostile_text_is_shown_and_does_nothing(tab: Tab, browser: Browser, tmp_path: Path) -> None:
    with serving(colour_searcher(tmp_path, [*CAPTIONS, "\u202elive"])) as server:
        open_page(tab, server)
        assert tab.evaluate(CAPTIONS_SHOWN)[: len(CAPTIONS) + 1] == [*CAPTIONS, "\\u202elive"]
        elements = "document.querySelectorAll('script, iframe, a, meta, svg').length"
        assert tab.evaluate(elements) == 5  # the page's own
        for number, text in enumerate(CAPTIONS):
            tab.evaluate(f"document.querySelectorAll('.open')[{number}].click()")
            title = "document.querySelector('#sample-title').textContent"
            tab.wait(f"{title} === {json.dumps(text)}")
            tab.press("Escape")
            tab.wait("!document.querySelector('#sample').open")
        search_for(tab, CAPTIONS[1])
        tab.wait(f"{READY} && {STATUS}.includes({json.dumps(CAPTIONS[1])})")
        assert not tab.evaluate("document.title").startswith("owned")
        assert tab.evaluate(elements) == 5
