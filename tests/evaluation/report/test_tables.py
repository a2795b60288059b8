import io
import re

import pytest
import torch
from rich.console import Console

from xmodal.evaluation.metrics.average_precision import CURVE
from xmodal.evaluation.metrics.ranking import Ranks
from xmodal.evaluation.metrics.recall import recall_metrics
from xmodal.evaluation.protocols.gap import LABELS as GAP_LABELS
from xmodal.evaluation.protocols.registry import measured_by
from xmodal.evaluation.report.tables import percent


@pytest.fixture
def metrics() -> dict[str, float]:
    text = torch.arange(1200)
    ranks = Ranks(torch.arange(240) // 3, text % 240)
    return recall_metrics(ranks, torch.stack([text // 5, text], 1), "all-captions")


def printed(metrics: dict[str, float], width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, soft_wrap=True)
    for name, protocol in measured_by(metrics).items():
        console.print(protocol.table(metrics, name))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def numbers(text: str, label: str) -> list[str]:
    """The numbers in the line of a table that begins with a label."""
    line = next(line for line in text.splitlines() if line.strip().startswith(label))
    return re.findall(r"-?[\d.,]+", line.partition(label)[2])


def test_the_table_shows_each_recall_beside_its_chance(metrics: dict[str, float]) -> None:
    text = printed(metrics)
    assert "all-captions: 240 images × 1,200 texts" in text.splitlines()[0]
    # 3, 15 and 30 of 240 images; the median of 0, 0, 0, 1, … 79, 79, 79 is 39.5.
    expected = ["1.2", "0.42", "6.2", "2.1", "12.5", "4.1", "40"]
    assert numbers(text, "image → text") == expected
    # 5, 25 and 50 of 1,200 texts, whose one image each is among 240: exactly chance.
    expected = ["0.4", "0.42", *["2.1"] * 2, *["4.2"] * 2, "120"]
    assert numbers(text, "text → image") == expected
    assert text.splitlines()[-1].strip() == "rsum 26.7 of 600 (chance 13.3)"


def of_classes() -> dict[str, float]:
    metrics = {"class/map": 61.25, "class/map_chance": 10.5}
    for number, direction in enumerate(("image_to_text", "text_to_image")):
        values = {"map": 60.0, "map_chance": 10.0, "map@50": 72.0, "map@50_chance": 0.125}
        values |= {"queries": 1234.0, "queries_skipped": 0.0} | dict.fromkeys(CURVE, 50.0)
        metrics |= {f"class/{direction}/{name}": value + number for name, value in values.items()}
    sizes = {"num_images": 1234.0, "num_texts": 1235.0, "num_classes": 10.0}
    return metrics | {f"class/{name}": value for name, value in sizes.items()}


def test_the_table_of_classes() -> None:
    text = printed(of_classes())
    assert "class: 1,234 images × 1,235 texts, 10 classes" in text
    assert numbers(text, "image → text") == ["60.0", "10.0", "72.0", "0.12", "1,234"]
    assert numbers(text, "text → image") == ["61.0", "11.0", "73.0", "1.1", "1,235"]
    assert "mean mAP 61.2 (chance 10.5)" in text


def test_the_table_of_the_gap() -> None:
    metrics = {f"gap/{name}": -0.123456 * number for number, name in enumerate(GAP_LABELS)}
    text = printed(metrics | {"gap/pairs": 2000.0})
    assert "gap: 2,000 pairs" in text
    row = text.rstrip().splitlines()[-1]
    assert row.split() == ["-0", "-0.123", "-0.247", "-0.37", "-0.494", "-0.617", "-0.741"]


def test_the_table_of_classification() -> None:
    metrics = {"top1": 50.0, "top1_chance": 8.3, "top5": 90.0, "top5_chance": 41.7}
    metrics |= {"mean_class_recall": 44.0, "mean_class_recall_chance": 8.4}
    metrics |= {"num_images": 500.0, "num_classes": 12.0}
    text = printed({f"zero-shot/{name}": value for name, value in metrics.items()})
    assert "zero-shot: 500 images × 12 classes" in text
    assert numbers(text, "image → class") == ["50.0", "8.3", "90.0", "41.7", "44.0", "8.4"]


def with_chance(names: dict[str, float]) -> dict[str, float]:
    return names | {f"{name}_chance": value / 10 for name, value in names.items()}


def of_composed() -> dict[str, float]:
    """Of a protocol with a subset, and of one with four columns."""
    found = with_chance(
        {f"cirr/recall@{k}": 10.0 + k for k in (1, 5, 10, 50)}
        | {f"cirr/recall_subset@{k}": 20.0 + k for k in (1, 2, 3)}
    )
    names = ("dress/recall", "shirt/recall", "toptee/recall", "recall")
    found |= with_chance({f"fashion-iq/{name}@{k}": 100.0 for name in names for k in (10, 50)})
    for protocol in ("cirr", "fashion-iq"):
        sizes = {"num_queries": 4181.0, "num_images": 2297.0, "median_rank": 12.0}
        found |= {f"{protocol}/{name}": value for name, value in sizes.items()}
    return found | {"cirr/num_without_target": 0.0, "fashion-iq/num_without_target": 1234.0}


def test_the_table_of_composed_queries() -> None:
    text = printed(of_composed())
    assert "cirr: 4,181 queries × 2,297 images" in text
    assert numbers(text, "R@1 ") == ["11.0", "1.1", "21.0", "2.1"]
    assert numbers(text, "R@2") == ["22.0", "2.2"]
    assert numbers(text, "R@50") == ["60.0", "6.0"]
    heads = next(line for line in text.splitlines() if "toptee" in line).split()
    assert heads == [
        word for name in ("dress", "shirt", "toptee", "recall") for word in (name, "chance")
    ]
    assert [line.strip() for line in text.splitlines()].count("median rank 12") == 1
    assert text.count("median rank 12; 1,234 queries without a relevant image") == 1


def test_the_table_of_images_that_find_images() -> None:
    metrics = with_chance({"visual/recall@1": 50.0, "visual/map@r": 40.0})
    metrics |= {"visual/nmi": 33.0, "visual/nmi_chance": 32.0, "visual/knn_accuracy": 55.0}
    metrics |= {"visual/num_images": 500.0, "visual/num_classes": 12.0, "visual/num_neighbours": 7}
    graded = with_chance({"visual-graded-with-text/ndcg": 60.0})
    sizes = {"num_images": 500.0, "num_classes": 12.0}
    graded |= {f"visual-graded-with-text/{name}": value for name, value in sizes.items()}
    text = printed(metrics | graded)
    assert "visual: 500 images × 12 classes" in text
    assert "visual-graded-with-text: 500 images × 12 classes" in text
    assert numbers(text, "R@1") == ["50.0", "5.0"]
    assert numbers(text, "mAP@R") == ["40.0", "4.0"]
    assert numbers(text, "NMI") == ["33.0", "32.0"]
    assert numbers(text, "7-NN") == ["55.0"]
    assert numbers(text, "nDCG") == ["60.0", "6.0"]


@pytest.mark.parametrize("width", [20, 80, 300])
def test_tables_are_the_same_in_every_log_file(metrics: dict[str, float], width: int) -> None:
    shown = metrics | of_classes() | of_composed()
    lines = [line.rstrip() for line in printed(shown, width).splitlines()]
    assert lines == [line.rstrip() for line in printed(shown, 80).splitlines()]
    assert max(map(len, lines)) <= 78


def test_there_is_no_table_of_other_numbers() -> None:
    assert printed({"rsum": 1.0, "a/b/rsum": 1.0, "loss": 2.0}) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(100, "100.0"), (5.25, "5.2"), (1, "1.0"), (0.3128, "0.31"), (0.02, "0.02"), (0, "0")],
)
def test_small_percentages_keep_two_digits(value: float, text: str) -> None:
    assert percent(value) == text
