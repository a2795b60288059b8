"""Counts over samples of a shard set: ids, equal images, equal captions, tokens."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.shard_sets import Members, described, encode, numbered, plain, write_shards
from xmodal.data import survey as module
from xmodal.data.reader import SampleReader
from xmodal.data.survey import MAX_SAMPLES, Survey, _chance_of_same, survey
from xmodal.data.tokenizers.byte_pair import train_tokenizer
from xmodal.data.tokenizers.words import train_word_tokenizer
from xmodal.data.tokens import CaptionTokenizer
from xmodal.data.training_set import DataSet

WORDS = train_word_tokenizer(["a red cat"] * 9, 5, vocabulary=100, min_count=1)
BYTES = train_tokenizer(["a red cat"], 64, vocabulary=300)


def surveyed(
    folder: Path,
    samples: Mapping[str, Members],
    tokenizer: CaptionTokenizer = BYTES,
    captions: bool = True,
    **options: Any,
) -> Survey:
    data_set = DataSet(SampleReader(write_shards(folder, [samples])), **options)
    return survey(data_set, tokenizer, captions=captions)


def sample(number: int, caption: str, **record: object) -> Members:
    return {"png": encode(plain(number)), "json": described([caption], **record)}


def test_a_sound_set_has_nothing_in_common(tmp_path: Path) -> None:
    found = surveyed(tmp_path, numbered(30))
    assert (found.samples, found.ids, found.twins) == (30, 30, 0)
    assert found.chance_of_same_caption == 0
    assert (found.tokens.captions, found.tokens.cut, found.tokens.unknown) == (90, 0, 0)


def test_equal_images_are_twins_only_under_different_ids(tmp_path: Path) -> None:
    samples = {
        "a": sample(1, "one", image_id="first"),
        "b": sample(1, "two", image_id="second"),
        "c": sample(2, "three", image_id="third"),
        "d": sample(2, "four", image_id="third"),
        "e": sample(1, "five"),
    }
    found = surveyed(tmp_path, samples)
    assert (found.samples, found.ids, found.twins) == (5, 4, 3)


def test_captions_are_compared_between_different_ids(tmp_path: Path) -> None:
    samples = {
        "a": sample(1, "a dog", image_id="same"),
        "b": sample(2, "a dog", image_id="same"),
        "c": sample(3, "a dog"),
        "d": sample(4, "a cat"),
    }
    # Of the pairs ac, bc, ad, bd, cd, two.
    assert surveyed(tmp_path, samples).chance_of_same_caption == 2 / 5


@given(st.lists(st.tuples(st.sampled_from("abc"), st.lists(st.sampled_from("xyz"))), max_size=9))
def test_the_chance_of_the_same_caption_is_that_of_all_pairs(
    drawn: list[tuple[str, list[str]]],
) -> None:
    different = [
        bool(set(texts) & set(others))
        for at, (one, texts) in enumerate(drawn)
        for other, others in drawn[:at]
        if one != other
    ]
    ids, texts = [one for one, _ in drawn], [texts for _, texts in drawn]
    assert _chance_of_same(ids, texts) == (np.mean(different) if different else 0)


def test_what_a_tokenizer_loses_is_counted(tmp_path: Path) -> None:
    samples = {"a": sample(1, "a red dog"), "b": sample(2, "a cat a cat a cat")}
    tokens = surveyed(tmp_path, samples, WORDS).tokens
    assert (tokens.captions, tokens.cut, tokens.tokens, tokens.unknown) == (2, 1, 6, 1)


def test_texts_are_those_that_are_drawn(tmp_path: Path) -> None:
    samples = {
        "a": sample(1, "one", zh=["一只狗", "小狗"]),
        "b": sample(2, "two", zh=["一只狗"]),
    }
    assert surveyed(tmp_path / "en", samples).chance_of_same_caption == 0
    found = surveyed(tmp_path / "zh", samples, texts={"zh": 1.0})
    assert (found.tokens.captions, found.chance_of_same_caption) == (3, 1)


def test_samples_that_cannot_be_used_do_not_count(tmp_path: Path) -> None:
    samples = numbered(6)
    samples["00002"] = {"png": encode(plain(2))}
    assert surveyed(tmp_path / "texts", samples).samples == 5
    assert surveyed(tmp_path / "images", samples, captions=False).samples == 6


def test_large_sets_are_sampled_all_over(tmp_path: Path) -> None:
    count = 5 * MAX_SAMPLES
    samples = {f"{n:05d}": sample(0, f"{n}") for n in range(count)}
    manifest = write_shards(tmp_path, [samples])
    seen = [int(one.key) for one in module._spread(SampleReader(manifest))]
    assert len(set(seen)) == len(seen) <= MAX_SAMPLES
    assert {n * 8 // count for n in seen} == set(range(8))


def test_reading_ends_after_some_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 1)
    assert surveyed(tmp_path, numbered(100)).samples == 16
