"""Protocols of false captions on whole shard sets, against scores of each pair by itself."""

import re
from itertools import chain
from pathlib import Path

import pytest
import torch

from tests.evaluation.test_retrieval import (
    DIM,
    Bags,
    FeaturesOfTexts,
    Learned,
    TwoSenses,
    measured,
    samples,
)
from tests.processes import on_ranks
from tests.shard_sets import Members, described, write_shards
from tests.training_sets import TOKENIZER, npy
from xmodal.data.batch import Batch
from xmodal.errors import UserError
from xmodal.evaluation.protocols.sugarcrepe import CATEGORIES
from xmodal.evaluation.report.run_report import print_results
from xmodal.methods.method import Method

PROTOCOLS = ("false-captions", "sugarcrepe", "aro", "winoground")
WORDS = ("red", "green", "blue", "7", "15")


def sample(number: int, captions: list[str], **record: object) -> Members:
    rng = torch.Generator().manual_seed(number)
    features = torch.randn(DIM, generator=rng).numpy()
    return {
        "image.npy": npy(features),
        "json": described(captions, image_id=f"i{number}", **record),
    }


def choices(count: int = 30) -> dict[str, Members]:
    """Samples of two captions; one has one to four false ones, every fifth has none."""
    found = {}
    for n in range(count):
        options = [f"{n} {word} false" for word in WORDS[: n % 5]]
        record = {"false_captions": [[], options], "category": f"c{n % 3}"}
        found[f"{n:03d}"] = sample(n, [f"{n} other", f"{n} red"], **record)
    return found


def by_hand(method: Method, number: int, captions: list[str]) -> list[float]:
    """Scores of an image with captions, each encoded alone."""
    rng = torch.Generator().manual_seed(number)
    image = method.encode(Batch(image_features=torch.randn(1, DIM, generator=rng))).images
    scores = []
    for caption in captions:
        tokens, mask = TOKENIZER([caption])
        text = method.encode(Batch(tokens=tokens, token_mask=mask)).texts
        scores.append(float(method.score(image, text)))
    return scores


@pytest.mark.parametrize("kind", [Bags, Learned, TwoSenses])
def test_the_methods_own_score_chooses(kind: type[Method], tmp_path: Path) -> None:
    write_shards(tmp_path, [choices()])
    found = measured(kind(), tmp_path, "false-captions").metrics
    method = kind().eval()
    right: dict[str, list[bool]] = {}
    with torch.no_grad():
        for n in [n for n in range(30) if n % 5]:
            own, *others = by_hand(
                method, n, [f"{n} red", *(f"{n} {word} false" for word in WORDS[: n % 5])]
            )
            right.setdefault(f"c{n % 3}", []).append(all(own > other for other in others))
    every = [*chain(*right.values())]
    assert 0 < sum(every) < len(every)
    assert found["false-captions/accuracy"] == pytest.approx(100 * sum(every) / len(every))
    assert found["false-captions/num_captions"] == 24
    for name, values in right.items():
        accuracy = found[f"false-captions/{name}/accuracy"]
        assert accuracy == pytest.approx(100 * sum(values) / len(values))
    chance = 100 * (1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 4
    assert found["false-captions/accuracy_chance"] == pytest.approx(chance)
    assert any(name.startswith("false-captions-by-distance/") for name in found) == (
        kind is Learned
    )


def of_a_rank(shards: Path) -> dict[str, float]:
    return measured(Learned(), shards, *PROTOCOLS).metrics


def test_all_ranks_get_the_same(tmp_path: Path) -> None:
    write_shards(tmp_path, [samples()])
    alone = of_a_rank(tmp_path)
    first, second = on_ranks(2, of_a_rank, tmp_path)
    assert first == second == alone


def test_a_group_of_which_one_is_broken_is_skipped_and_counted(tmp_path: Path) -> None:
    broken = samples()
    broken["004"] = broken["004"] | {"json": b"{"}
    write_shards(tmp_path, [broken])
    found = measured(Bags(), tmp_path, "winoground")
    assert found.metrics["winoground/num_groups"] == 9
    assert found.metrics["winoground/groups_skipped"] == 1
    assert [fault.key for fault in found.faults] == ["004"]
    assert found.metrics["winoground/group_chance"] == pytest.approx(100 / 6)


def test_what_is_wrong_with_false_captions_is_named(tmp_path: Path) -> None:
    found = {"000": sample(0, ["a", "b"], false_captions=[["a", " ", "c"], []])}
    found["001"] = sample(1, ["a"], false_captions=["a"])
    found["002"] = sample(2, ["a"], false_captions=[["b"], ["c"]])
    write_shards(tmp_path, [found])
    retrieval = measured(Bags(), tmp_path, "false-captions")
    assert retrieval.metrics["false-captions/num_captions"] == 1
    assert retrieval.metrics["false-captions/accuracy_chance"] == 50
    form = "false_captions is no list with a list for each caption"
    assert [(fault.key, str(fault.cause)) for fault in retrieval.faults] == [
        ("000", "false caption is empty"),
        ("000", "false caption is the caption itself"),
        ("001", form),
        ("002", form),
    ]


def test_tables_and_pages_show_every_category(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shards(tmp_path, [samples()])
    metrics = measured(Bags(), tmp_path, *PROTOCOLS).metrics
    print_results(metrics, tmp_path)
    said = capsys.readouterr().out
    assert "sugarcrepe: 20 captions" in said
    assert "winoground: 10 groups" in said
    for name in CATEGORIES:
        assert said.count(name) == 4
    assert said.count("mean of categories") == 3
    assert re.search(r"all +[\d.]+ +25.0 +[\d.]+ +25.0 +[\d.]+ +16.7 +\n", said)


def test_labels_are_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = sample(0, ["a"], false_captions=[["b"]], category="[/foo]")
    write_shards(tmp_path, [{"000": one, "001": sample(1, ["c"])}])
    print_results(measured(Bags(), tmp_path, "aro").metrics, tmp_path)
    assert "[/foo]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("protocol", "groups", "line"),
    [
        ("sugarcrepe", ["g", "g"], "sugarcrepe is measured on its seven categories, and URL has"),
        ("winoground", ["g", "h"], "winoground is measured on groups of two images, the caption"),
        ("winoground", ["g", "g", "g"], "winoground is measured on groups of two images"),
    ],
)
def test_other_sets_are_refused(
    protocol: str, groups: list[str], line: str, tmp_path: Path
) -> None:
    found = {
        f"{n:03d}": sample(n, ["ab"[n % 2]], false_captions=[["ba"[n % 2]]], group=group)
        for n, group in enumerate(groups)
    }
    write_shards(tmp_path, [found])
    with pytest.raises(UserError) as error:
        measured(Bags(), tmp_path, protocol)
    assert str(error.value).startswith(line.replace("URL", str(tmp_path)))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_has_no_false_captions_is_refused_before_anything_is_encoded(
    protocol: str, tmp_path: Path
) -> None:
    write_shards(tmp_path, [{"000": sample(0, ["a"]), "001": sample(1, ["b"])}])
    method = Bags()
    with pytest.raises(
        UserError, match=f"no false_captions in its samples' JSON, which {protocol}"
    ):
        measured(method, tmp_path, protocol)
    with pytest.raises(UserError, match="encodes false captions, but method"):
        measured(FeaturesOfTexts(), tmp_path, protocol)
    assert method.encoded == 0
