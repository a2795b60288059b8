"""Recall of the texts of each language apart, as of a set that has these texts alone."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.evaluation.test_retrieval import DIM, Bags, FeaturesOfTexts, Learned, measured, samples
from tests.shard_sets import Members, described, write_shards
from tests.training_sets import npy
from xmodal.errors import UserError
from xmodal.evaluation.metrics.recall import HIGHER_IS_BETTER
from xmodal.evaluation.report.run_report import print_results
from xmodal.methods.method import Method

IMAGES = 24


def speaking(key: str = "captions", **more: Any) -> dict[str, Members]:
    """Images, every third of which has no German; `key` has the German texts."""
    found = {}
    for n in range(IMAGES):
        german = [f"{n} {n}", f"{n} 0"] if n % 3 else []
        texts = {"captions": [f"{n} {c}" for c in range(3)], "de": german}
        record = texts if key == "captions" else {"captions": german}
        found[f"{n:03d}"] = {
            "image.npy": npy(_features(n)),
            "json": described(record.pop("captions"), image_id=f"i{n}", **record, **more),
        }
    return found if key == "captions" else {k: v for k, v in found.items() if int(k) % 3}


def _features(number: int) -> Any:
    return np.random.default_rng(number).normal(size=DIM).astype(np.float32)


@pytest.mark.parametrize("kind", [Bags, Learned])
def test_each_language_is_measured_as_a_set_of_its_own(kind: type[Method], tmp_path: Path) -> None:
    write_shards(tmp_path / "both", [speaking()])
    write_shards(tmp_path / "german", [speaking("de")])
    found = measured(kind(), tmp_path / "both", "by-language").metrics
    for language, alone in (("captions", tmp_path / "both"), ("de", tmp_path / "german")):
        own = measured(kind(), alone, "all-captions").metrics
        for name, value in own.items():
            protocol, _, metric = name.partition("/")
            ours = f"{protocol.replace('all-captions', 'by-language')}/{language}/{metric}"
            assert found[ours] == pytest.approx(value), name
    assert found["by-language/de/num_images"] == 16
    assert found["by-language/num_languages"] == 2
    for metric in (*HIGHER_IS_BETTER, "rsum_chance", "text_to_image/median_rank"):
        values = [found[f"by-language/{language}/{metric}"] for language in ("captions", "de")]
        assert found[f"by-language/{metric}"] == pytest.approx(sum(values) / 2), metric


def test_languages_are_lists_under_codes_or_the_keys_that_are_named(tmp_path: Path) -> None:
    others = {"pt_BR": ["1 2"], "url": "1", "id": "2", "tags": ["3"], "sizes": [1, 2]}
    write_shards(tmp_path, [speaking(**others)])
    found = measured(Bags(), tmp_path, "by-language").metrics
    assert _languages(found) == {"captions", "de", "pt_BR"}
    named = measured(Bags(), tmp_path, "by-language", languages=["tags", "de"]).metrics
    assert _languages(named) == {"tags", "de"}
    assert named["by-language/de/rsum"] == found["by-language/de/rsum"]


def _languages(metrics: dict[str, float]) -> set[str]:
    return {m[1] for name in metrics if (m := re.fullmatch(r"by-language/(\w+)/rsum", name))}


@pytest.mark.parametrize(
    ("kind", "options", "line"),
    [
        (Bags, {"languages": ["xx"]}, "evaluation.languages: the first samples of URL have no"),
        (FeaturesOfTexts, {}, "by-language encodes texts of other languages, but method.text is"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    kind: type[Method], options: dict[str, Any], line: str, tmp_path: Path
) -> None:
    write_shards(tmp_path, [samples(texts=kind is FeaturesOfTexts)])
    with pytest.raises(UserError) as error:
        measured(kind(), tmp_path, "by-language", **options)
    assert str(error.value).startswith(line.replace("URL", str(tmp_path)))


def test_a_set_of_one_language_is_one_line(tmp_path: Path) -> None:
    one = {key: {**files, "json": described(["1 2"])} for key, files in speaking().items()}
    write_shards(tmp_path, [one])
    with pytest.raises(UserError, match="has no texts of further languages, lists in its samples'"):
        measured(Bags(), tmp_path, "by-language")


def test_the_table_has_a_row_a_language(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shards(tmp_path, [speaking()])
    metrics = measured(Bags(), tmp_path, "by-language").metrics
    print_results(metrics, tmp_path)
    said = capsys.readouterr().out
    for label, name in (("captions", "captions/"), ("de", "de/"), ("mean", "")):
        total = f"{metrics[f'by-language/{name}rsum']:.1f}"
        assert re.search(rf"^ +{label} .* {re.escape(total)} *$", said, re.MULTILINE), label
