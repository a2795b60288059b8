import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from xmodal.evaluation.metrics.average_precision import CURVE
from xmodal.evaluation.metrics.ranking import Ranks
from xmodal.evaluation.metrics.recall import recall_metrics
from xmodal.evaluation.protocols.gap import LABELS as GAP_LABELS
from xmodal.evaluation.report.run_report import (
    Example,
    Hit,
    data_uri,
    print_results,
    retrieval_sheet,
    write_report,
)

GREEN, BLUE = [0x1A, 0x7F, 0x4B], [0x2F, 0x6F, 0xDB]
EVIL = """<script>alert("1")</script> & 'two' dogs"""


@pytest.fixture
def metrics() -> dict[str, float]:
    text = torch.arange(1200)
    ranks = Ranks(torch.arange(240) // 3, text % 240)
    return recall_metrics(ranks, torch.stack([text // 5, text], 1), "all-captions")


@pytest.fixture
def examples() -> list[Example]:
    pictures = [np.full((40, 60, 3), 50 * i, np.uint8) for i in range(5)]
    captions = [f"caption {i}" for i in range(4)] + [EVIL]
    return [
        Example(None, EVIL, [Hit(p, i == 2, 0.9 - i / 10) for i, p in enumerate(pictures)], rank=2),
        Example(None, "a <b>", [Hit(p, False, 0.5) for p in pictures], rank=1336),
        Example(pictures[3], None, [Hit(c, i == 4, 0.5) for i, c in enumerate(captions)], rank=4),
    ]


def test_results_are_printed_a_table_a_protocol(
    metrics: dict[str, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {name.replace("all-captions", "relevance"): value for name, value in metrics.items()}
    print_results(metrics | other, tmp_path)
    output = capsys.readouterr().out
    assert output.index("all-captions: 240 images") < output.index("relevance: 240 images")
    assert "report" not in output
    page = write_report(tmp_path, "run", metrics, [], [], "")
    print_results(metrics, tmp_path)
    assert f"report: {page}\n" in capsys.readouterr().out


class Page(HTMLParser):
    """What a browser would make of the page: tags with attributes, and its text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(source)

    @property
    def drawings(self) -> list[str | None]:
        """What the drawings are called, without the bars in tables."""
        svg = (attributes for tag, attributes in self.tags if tag == "svg")
        return [one["aria-label"] for one in svg if one.get("role") == "img"]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_and_needs_nothing_beside_it(
    metrics: dict[str, float], examples: list[Example], tmp_path: Path
) -> None:
    history = [{"step": step, "stage": "main", "loss": 1 / (step + 1)} for step in range(50)]
    history += [{"step": step, "all-captions/rsum": 10.0 * step} for step in (20, 40)]
    path = write_report(
        tmp_path, EVIL, metrics | {"a/gap": 0.25}, examples, history, f"run: {EVIL}"
    )

    assert path == tmp_path / "report" / "index.html"
    assert [file.name for file in path.parent.iterdir()] == ["index.html"]
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    names = [tag for tag, _ in page.tags]
    assert "script" not in names
    assert "link" not in names
    for _, attributes in page.tags:
        assert "style" not in attributes
        assert "href" not in attributes
        assert (attributes.get("src") or "data:").startswith("data:")
    assert len(page.drawings) == 2
    assert names.count("img") == 5 + 5 + 1
    # In the title, the heading, a query, a hit and the recipe, as it was written.
    assert page.text.count(EVIL) == 5
    assert "a <b>" in page.text
    assert "rank 1,337" in page.text
    assert "240 images × 1,200 texts" in page.text
    assert "a/gap" in page.text


def test_the_page_shows_every_protocol(metrics: dict[str, float], tmp_path: Path) -> None:
    others = {f"class/{name}": 20.0 for name in ("map", "map_chance")}
    for direction in ("image_to_text", "text_to_image"):
        names = ("map", "map_chance", "map@50", "map@50_chance", "queries", "queries_skipped")
        others |= {f"class/{direction}/{name}": 31.25 for name in (*names, *CURVE)}
    others |= {f"class/num_{name}": 10.0 for name in ("images", "texts", "classes")}
    for name in ("top1", "top5", "mean_class_recall"):
        others |= {f"zero-shot/{name}": 42.5, f"zero-shot/{name}_chance": 8.0}
    others |= {"zero-shot/num_images": 500.0, "zero-shot/num_classes": 12.0}
    others |= {f"gap/{name}": 0.125 for name in (*GAP_LABELS, "pairs")}
    history = [{"step": step, "class/map": 1.0 * step} for step in (20, 40)]
    path = write_report(tmp_path, "run", metrics | others | {"left": 1.5}, [], history, "")
    page = Page(path.read_text(encoding="utf-8"))
    for words in (
        "10 images × 10 texts, 10 classes · mean mAP 20.0 (chance 20.0)",
        "500 images × 12 classes",
        "240 images × 1,200 texts",
    ):
        assert words in page.text
    assert [page.text.count(n) for n in ("31.2", "42.5", "0.125")] == [8, 3, 7]
    assert page.drawings == ["class: precision by recall", "class/map by step"]
    # What no protocol's panel has stands by its name.
    assert "left" in page.text
    assert "map@50_chance" not in page.text


def test_the_page_marks_what_is_relevant(examples: list[Example], tmp_path: Path) -> None:
    page = Page(write_report(tmp_path, "run", {}, examples, [], "").read_text(encoding="utf-8"))
    marked = [attributes.get("class") for tag, attributes in page.tags if tag == "figure"]
    assert marked == [None, None, "relevant", None, None] + [None] * 5
    captions = [attributes.get("class") for tag, attributes in page.tags if tag == "li"]
    assert captions == [None] * 4 + ["relevant"]


def composed_and_visual() -> dict[str, float]:
    found = {f"cirr/recall@{k}": 61.25 for k in (1, 5, 10, 50)}
    found |= {f"cirr/recall_subset@{k}": 71.25 for k in (1, 2, 3)}
    found |= {f"visual/{name}": 81.25 for name in ("map@r", "recall@1", "recall@2")}
    found |= {f"visual-graded/{name}": 91.25 for name in ("ndcg", "ndcg@10")}
    found |= {f"{name}_chance": 3.0 for name in found}
    found |= {"visual/nmi": 44.5, "visual/num_images": 50.0, "visual/num_classes": 7.0}
    found |= {"visual-graded/num_images": 51.0, "visual-graded/num_classes": 8.0}
    return found | {
        "cirr/num_queries": 4181.0,
        "cirr/num_images": 2297.0,
        "cirr/median_rank": 12.0,
        "cirr/num_without_target": 0.0,
    }


def test_the_page_shows_what_finds_images(examples: list[Example], tmp_path: Path) -> None:
    picture, hits = np.zeros((9, 9, 3), np.uint8), examples[0].hits
    asked = [Example(picture, EVIL, hits, None), Example(picture, None, hits, 2)]
    history = [{"step": step, "cirr/recall@1": 1.0, "visual/map@r": 2.0} for step in (20, 40)]
    path = write_report(tmp_path, "run", composed_and_visual(), asked, history, "")
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    for words in (
        "4,181 queries × 2,297 images · median rank 12",
        "50 images × 7 classes",
        "51 images × 8 classes",
        "Images found for an image and its modification",
        "Images found for images",
        "best relevant image: none",
        "best relevant image: rank 3",
        EVIL,
    ):
        assert words in " ".join(page.text.split()), words
    shown = ("61.2", "71.2", "81.2", "91.2", "44.5")
    assert [page.text.count(n) for n in shown] == [4, 3, 3, 2, 1]
    assert [name for name, _ in page.tags].count("img") == 2 * (1 + 5)
    assert page.drawings == ["cirr/recall@1 by step", "visual/map@r by step"]
    assert "recall_subset@3_chance" not in page.text


def test_a_report_replaces_the_last_one(metrics: dict[str, float], tmp_path: Path) -> None:
    write_report(tmp_path, "first", metrics, [], [], "")
    path = write_report(tmp_path, "second", metrics, [], [], "")
    assert "second" in path.read_text()
    assert "first" not in path.read_text()


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((500, 900, 3), np.uint8),
        np.zeros((30, 20), np.uint8),
        Image.new("RGB", (900, 500)),
        Image.new("RGBA", (900, 500)),
        Image.new("P", (7, 2000)),
    ],
)
def test_any_picture_becomes_a_small_jpeg(picture: np.ndarray | Image.Image) -> None:
    before = picture.size
    kind, data = data_uri(picture, size=320).split(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.mode == "RGB"
        assert max(image.size) <= 320
    assert picture.size == before


def test_the_sheet_frames_the_true_images_of_captions(examples: list[Example]) -> None:
    sheet = retrieval_sheet(examples)
    assert sheet is not None
    assert sheet.dtype == np.uint8
    assert sheet.shape[2] == 3
    green = (sheet == GREEN).all(2)
    rows, columns = green.any(1).nonzero()[0], green.any(0).nonzero()[0]
    # One frame of 144 + 2 · 4 pixels: the third image of the first caption.
    assert rows[-1] - rows[0] + 1 == columns[-1] - columns[0] + 1 == 152
    assert columns[0] == 10 + 2 * (152 + 10)
    assert rows[-1] < sheet.shape[0] / 2


def test_the_sheet_begins_with_the_image_that_is_searched_with(examples: list[Example]) -> None:
    query = np.zeros((9, 9, 3), np.uint8)
    sheet = retrieval_sheet([Example(query, "dog", examples[0].hits, None)])
    assert sheet is not None
    blue, green = ((sheet == colour).all(2).any(0).nonzero()[0] for colour in (BLUE, GREEN))
    assert (blue[0], green[0]) == (10, 10 + 3 * (152 + 10))
    assert sheet.shape[1] == 10 + 6 * (152 + 10)


def test_a_long_caption_is_wrapped_and_not_cut(examples: list[Example]) -> None:
    short = retrieval_sheet([Example(None, "dog", examples[0].hits, 2)])
    long = retrieval_sheet([Example(None, "dog " * 100, examples[0].hits, 2)])
    assert short is not None
    assert long is not None
    assert long.shape[0] > short.shape[0]
    assert long.shape[1] == short.shape[1]
    assert (long[:, -5:] == 255).all()


def test_without_captions_there_is_no_sheet(examples: list[Example]) -> None:
    assert retrieval_sheet(examples[2:]) is None
    assert retrieval_sheet([]) is None
