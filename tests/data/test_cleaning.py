"""Captions are cleaned as the libraries do that models come from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmodal.data.character_map import CharacterMap
from xmodal.data.cleaning import Cleaning, cleaner, siglip_form

CLEANERS = [cleaner(name) for name in ("whitespace", "lower", "canonicalize", "clip")]
MESSY = "  It&amp;#39;s a sch\u00c3\u00b6n\t_DOG_,\n&lt;end_of_text&gt; 5x! "


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("none", MESSY),
        ("whitespace", "It's a schön _DOG_, <end_of_text> 5x!"),
        ("lower", "it's a schön _dog_, <end_of_text> 5x!"),
        ("canonicalize", "its a schön dog end of text 5x"),
        ("clip", "it 's a schön _ dog _, <end_of_text> 5 x !"),
        ("siglip", "▁ itamp39s a schã¶n dog ltendoftextgt 5x"),
    ],
)
def test_each_cleaning(name: Cleaning, cleaned: str) -> None:
    assert cleaner(name)(MESSY) == cleaned


def test_special_tokens_of_siglip_stay_and_take_the_spaces_around_them() -> None:
    assert siglip_form("A, b </s>  C.<unk>") == "▁a b</s>c<unk>"
    assert siglip_form("</s> x") == "</s>x"


@given(st.text(alphabet=st.characters(exclude_categories=("Cs",))))
def test_any_caption_has_single_spaces_once_cleaned(caption: str) -> None:
    for clean in CLEANERS:
        cleaned = clean(caption)
        assert cleaned == " ".join(cleaned.split())


@pytest.mark.parametrize("table", [b"", b"ab", b"\x05\0\0\0" + bytes(9), b"\xff" * 8])
def test_a_broken_character_map_is_refused(table: bytes) -> None:
    with pytest.raises(ValueError, match="broken"):
        CharacterMap(table)


def test_a_character_map_replaces_the_longest_match() -> None:
    # A double array: from the root at 0, whose children are at 256 ^ byte, `a` is a key and leads
    # to 512 ^ byte, where `ab` is one. A key's value is below byte 0.
    units = [0] * 1024
    units[0] = 256 << 10
    units[256 ^ ord("a")] = (256 ^ ord("a") ^ 512) << 10 | 1 << 8 | ord("a")
    units[512] = 1 << 31  # the value of `a`
    units[512 ^ ord("b")] = (512 ^ ord("b") ^ 768) << 10 | 1 << 8 | ord("b")
    units[768] = 1 << 31 | 3  # that of `ab`
    data = b"".join(unit.to_bytes(4, "little") for unit in units)
    replace = CharacterMap(len(data).to_bytes(4, "little") + data + b"12\0\0")
    assert replace("é ab a abc aa") == "é  12 c 1212"
