"""Captions become ids: the same each time, at most `context` of them, padded behind."""

import json
from pathlib import Path

import pytest
import torch

from xmodal.data import tokens
from xmodal.data.tokenizers.byte_pair import train_tokenizer
from xmodal.data.tokenizers.words import train_word_tokenizer
from xmodal.data.tokens import END, PAD, START, UNKNOWN, CaptionTokenizer, read_tokenizer
from xmodal.errors import UserError

CAPTIONS = [
    f"a {size} {colour} {thing} lies {where} the ground"
    for size in ("small", "large")
    for colour in ("red", "blue", "teal")
    for thing in ("ball", "cube", "cone")
    for where in ("on", "above")
]


@pytest.fixture(scope="module")
def tokenizer() -> CaptionTokenizer:
    return train_tokenizer(CAPTIONS, vocabulary=300, context=16)


def special(tokenizer: CaptionTokenizer, name: str) -> int:
    return int(tokenizer.tokenizer.token_to_id(name))


def test_training_gives_the_same_vocabulary_each_time(tokenizer: CaptionTokenizer) -> None:
    for _ in range(3):
        again = train_tokenizer(iter(CAPTIONS), vocabulary=300, context=16)
        assert again.tokenizer.to_str() == tokenizer.tokenizer.to_str()


def test_the_vocabulary_is_as_large_as_asked(tokenizer: CaptionTokenizer) -> None:
    assert tokenizer.vocabulary == 300
    assert {special(tokenizer, PAD), special(tokenizer, END)} == {0, 1}
    # What occurs often is one token.
    ids, _ = tokenizer(["ground"])
    assert ids.shape == (1, 2)


def test_a_caption_ends_with_its_end_and_is_padded_behind(tokenizer: CaptionTokenizer) -> None:
    ids, mask = tokenizer(["a small red ball", "", "a ball"])
    pad, end = special(tokenizer, PAD), special(tokenizer, END)
    assert ids.dtype == torch.int64
    assert mask.dtype == torch.bool
    lengths = mask.sum(1)
    assert ids.shape == mask.shape == (3, int(lengths[0]))
    for row, row_mask, length in zip(ids, mask, lengths, strict=True):
        assert row_mask.tolist() == [True] * length + [False] * (len(row) - length)
        assert row[length - 1] == end
        assert (row == end).sum() == 1
        assert (row[length:] == pad).all()
    assert lengths[1] == 1


def test_a_caption_does_not_depend_on_its_batch(tokenizer: CaptionTokenizer) -> None:
    ids, mask = tokenizer(CAPTIONS[:5])
    for caption, row, row_mask in zip(CAPTIONS, ids, mask, strict=False):
        alone, _ = tokenizer([caption])
        assert alone[0].tolist() == row[row_mask].tolist()


def test_long_captions_are_cut_and_keep_their_end(tokenizer: CaptionTokenizer) -> None:
    words = " ".join(f"xyz{number}" for number in range(50))
    ids, mask = tokenizer([words, "a ball"])
    assert ids.shape == (2, 16)
    assert ids[0, -1] == special(tokenizer, END)
    assert mask[0].all()


def test_case_and_forms_of_a_character_are_one_and_every_character_has_ids(
    tokenizer: CaptionTokenizer,
) -> None:
    ids, _ = tokenizer(["Red Ball", "red ball"])
    assert ids[0].equal(ids[1])
    ids, _ = tokenizer(["café", "cafe\u0301"])
    assert ids[0].equal(ids[1])
    text = "雨 ☃ ru\x00é"
    ids, _ = tokenizer([text])
    assert tokenizer.tokenizer.decode(ids[0].tolist()).strip() == text


def test_a_saved_tokenizer_reads_the_same(tokenizer: CaptionTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    assert [file.name for file in tmp_path.iterdir()] == ["tokenizer.json"]
    again = read_tokenizer(tmp_path / "tokenizer.json", context=16)
    for ours, theirs in zip(tokenizer(CAPTIONS), again(CAPTIONS), strict=True):
        assert ours.equal(theirs)
    shorter = read_tokenizer(tmp_path / "tokenizer.json", context=4)
    assert shorter(CAPTIONS)[0].shape == (len(CAPTIONS), 4)


def words_of(captions: list[str], **options: int) -> CaptionTokenizer:
    options = {"vocabulary": 100, "min_count": 1, "context": 16} | options
    return train_word_tokenizer(captions, **options)


def spelled(tokenizer: CaptionTokenizer, caption: str) -> list[str]:
    ids, mask = tokenizer([caption])
    assert mask.all()
    return [tokenizer.tokenizer.id_to_token(token) for token in ids[0].tolist()]


def test_words_are_known_that_come_often_enough() -> None:
    tokenizer = words_of(["a dog", "A dog runs", "a cat"], min_count=2)
    assert tokenizer.vocabulary == 4 + 2
    assert spelled(tokenizer, "a cat, a dog") == [
        START, "a", UNKNOWN, UNKNOWN, "a", "dog", END,
    ]  # fmt: skip
    assert special(tokenizer, PAD) == tokenizer.pad == 0


def test_the_most_frequent_words_are_kept() -> None:
    captions = ["one two three four", "two three four", "three four", "four"]
    tokenizer = words_of(captions, vocabulary=6)
    assert tokenizer.vocabulary == 6
    assert spelled(tokenizer, captions[0]) == [START, UNKNOWN, UNKNOWN, "three", "four", END]


def test_words_end_at_spaces_and_punctuation_and_have_one_form() -> None:
    tokenizer = words_of(["The dog's café — 2nd-best!"])
    expected = [START, "the", "dog", "'", "s", "café", "—", "2nd", "-", "best", "!", END]
    for caption in ("The dog's café — 2nd-best!", "THE  dog's\tcafe\u0301—2nd-best !"):
        assert spelled(tokenizer, caption) == expected


def test_word_ids_are_padded_behind_and_cut_with_their_end() -> None:
    tokenizer = words_of(CAPTIONS, context=5)
    ids, mask = tokenizer(["a small red ball lies", "", "red"])
    assert mask.tolist() == [[True] * 5, [True] * 2 + [False] * 3, [True] * 3 + [False] * 2]
    start, end = special(tokenizer, START), special(tokenizer, END)
    assert ids[0, 0] == start
    assert ids[0, -1] == end
    assert ids[1].tolist() == [start, end, 0, 0, 0]


def test_characters_are_words_where_a_script_has_no_spaces() -> None:
    tokenizer = words_of(["两只狗在水里", "一只Hund玩水", "ネコ", "한국어 개"])
    for caption, words in (
        ("一只Hund在水里。", ["一", "只", "hund", "在", "水", "里", UNKNOWN]),
        ("ネコ 한국어", ["ネ", "コ", "한국어"]),
    ):
        (ids,), _ = tokenizer([caption])
        found = [tokenizer.tokenizer.id_to_token(number) for number in ids.tolist()]
        assert found == [START, *words, END]


@pytest.mark.parametrize("vocabulary", [300, 320])
def test_byte_pairs_need_no_spaces(vocabulary: int) -> None:
    """Characters that often stand together in Chinese become one token, and none is unknown."""
    tokenizer = train_tokenizer(["两只狗在水里", "两只狗在草地上"] * 5, 40, vocabulary=vocabulary)
    captions = ["两只狗", "一匹马", "a dog 🐕"]
    ids, mask = tokenizer(captions)
    decoded = tokenizer.tokenizer.decode_batch(ids.tolist())
    assert [one.strip() for one in decoded] == captions
    assert mask[0].sum() < mask[1].sum()


def test_words_are_learned_the_same_each_time_and_read_back(tmp_path: Path) -> None:
    tokenizer = words_of(CAPTIONS)
    for captions in (CAPTIONS, CAPTIONS[::-1]):
        assert words_of(captions).tokenizer.to_str() == tokenizer.tokenizer.to_str()
    tokenizer.save(tmp_path / "tokenizer.json")
    again = read_tokenizer(tmp_path / "tokenizer.json", context=16)
    assert again.vocabulary == tokenizer.vocabulary
    for ours, theirs in zip(tokenizer(CAPTIONS), again(CAPTIONS), strict=True):
        assert ours.equal(theirs)


def test_a_vocabulary_without_words_is_refused() -> None:
    with pytest.raises(UserError, match=r"no word of the captions occurs .*min_count=1 times"):
        words_of([])


def with_pattern(tokenizer: CaptionTokenizer, pattern: str, path: Path) -> Path:
    """A tokenizer's file that cuts captions by a pattern."""
    settings = json.loads(tokenizer.tokenizer.to_str())
    settings["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }
    path.write_text(json.dumps(settings))
    return path


def test_a_hostile_tokenizer_is_one_line(
    tokenizer: CaptionTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    panics = read_tokenizer(with_pattern(tokenizer, "(a+)+$", tmp_path / "a.json"), context=8)
    for call in (panics, panics.count):
        with pytest.raises(UserError, match=r"^the tokenizer cannot read captions \(.*retry"):
            call(["a" * 100 + "!"])
    broken = with_pattern(tokenizer, "(", tmp_path / "b.json")
    with pytest.raises(UserError, match=r"b.json is no tokenizer \(.*parenthesis.*: restore"):
        read_tokenizer(broken, context=8)
    monkeypatch.setattr(tokens, "MAX_TOKENIZER_BYTES", 100)
    with pytest.raises(UserError, match=r"b.json is over 100 bytes"):
        read_tokenizer(broken, context=8)
