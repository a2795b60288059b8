"""Values as captions, ids and labels: missing, empty, wrong in part and wrong altogether."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmodal.data.decode import BadSample
from xmodal.data.fields import (
    captions_of,
    false_captions_of,
    id_of,
    ids_of,
    is_missing,
    labels_of,
    relevance_of,
)
from xmodal.data.limits import MAX_CAPTIONS

NAN = float("nan")
MISSING = [None, NAN, "", " \t\r\n", "\ufeff\u200b", "\0"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("a dog", ["a dog"]),
        (["a dog", "a cat"], ["a dog", "a cat"]),
        ('["a dog", "a cat"]', ["a dog", "a cat"]),
        ("[laughs] a dog", ["[laughs] a dog"]),
        ("{braces}", ["{braces}"]),
        ("😀", ["😀"]),
        ("null and void", ["null and void"]),
        ("[]", []),
        (" [ ] ", []),
        ("nan", []),
        ("None", []),
        (["x" * 10_000], ["x" * 10_000]),
        ([], []),
        *((value, []) for value in MISSING),
    ],
)
def test_captions_are_a_text_or_a_list_of_texts(value: object, kept: list[str]) -> None:
    assert captions_of(value) == (kept, list(range(len(kept))), [])


@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        ("", "caption is empty"),
        (" \t\r\n", "caption is empty"),
        ("\ufeff\u200b", "caption is empty"),
        ("\0", "caption is empty"),
        (None, "caption is no text (but null)"),
        (NAN, "caption is no text (but NaN)"),
        (True, "caption is no text (but true or false)"),
        (3, "caption is no text (but a number)"),
        (3.5, "caption is no text (but a float)"),
        ({"raw": "a dog"}, "caption is no text (but an object)"),
        (["a dog"], "caption is no text (but a list)"),
        (b"a dog", "caption is no text (but bytes)"),
        ("['a dog', 'a cat']", "caption is a list or an object written as text"),
        ('{"raw": "a dog"}', "caption is a list or an object written as text"),
        ("x" * 10_001, "caption is over 10,000 characters"),
        ("\ud83d", "caption has half a surrogate pair"),
        ("c\0a\0t\0", "caption has a NUL in it"),
        ("a cat\0\0", "caption has a NUL in it"),
        ("{}", "caption is a list or an object written as text"),
    ],
)
def test_what_is_wrong_with_a_caption_costs_that_caption(wrong: object, cause: str) -> None:
    assert captions_of(["a", wrong, "b"]) == (["a", "b"], [0, 2], [cause])
    if not is_missing(wrong) and not isinstance(wrong, list):
        assert captions_of(wrong) == ([], [], [cause])


def test_more_captions_than_anything_has_are_refused_at_once() -> None:
    assert captions_of(["a"] * MAX_CAPTIONS).total == MAX_CAPTIONS
    with pytest.raises(BadSample, match="more than 1,000 captions"):
        captions_of(["a"] * (MAX_CAPTIONS + 1))


def test_false_captions_follow_the_captions_that_are_kept() -> None:
    said = captions_of(["a", "", "b"])
    found = false_captions_of([["x", " "], ["y"], ["b", "z"]], said)
    assert found.kept == [["x"], ["z"]]
    assert found.dropped == ["false caption is empty", "false caption is the caption itself"]
    for missing in MISSING:
        assert false_captions_of(missing, said) == ([[], []], [])


@pytest.mark.parametrize(
    "wrong", ["x", ["x", "y", "z"], [["x"]], {"a": ["x"]}, [["x"], "y", ["z"]]]
)
def test_false_captions_of_another_form_are_dropped(wrong: object) -> None:
    found = false_captions_of(wrong, captions_of(["a", "b", "c"]))
    form = "false_captions is no list with a list for each caption"
    assert found == ([[], [], []], [form])


def test_more_false_captions_than_anything_has_are_refused() -> None:
    with pytest.raises(BadSample, match="more than 1,000 false captions"):
        false_captions_of([["x"] * 501, ["x"] * 500], captions_of(["a", "b"]))


@pytest.mark.parametrize("value", MISSING)
def test_a_missing_id_is_none(value: object) -> None:
    assert id_of(value) is None
    assert ids_of(value, "members") == []
    assert labels_of(value) == ([], [])


@pytest.mark.parametrize("value", [4, "4", 4.0, " 4 "])
def test_one_number_is_one_id(value: object) -> None:
    assert id_of(value) == "4"
    assert ids_of([value], "members") == ids_of(value, "members") == ["4"]
    assert labels_of([value, "dog"]) == (["4", "dog"], [])


@pytest.mark.parametrize("value", [True, False, [3], [], {}, 4.5, 2.0**53, 1e20, float("inf")])
def test_what_is_no_id_is_refused(value: object) -> None:
    with pytest.raises(BadSample, match="image_id is no text or whole number"):
        id_of(value)
    with pytest.raises(BadSample, match="members is no text or whole number"):
        ids_of(["4", value], "members")


@pytest.mark.parametrize("value", ["nan", "NaN", "None", "null", " <NA> "])
def test_a_missing_value_written_as_text_is_no_id_and_no_caption(value: str) -> None:
    """As `str` makes of it: all samples without an id would be one image."""
    assert id_of(value) is None
    said = captions_of(["a dog", value])
    assert said == (["a dog"], [0], ["caption is a missing value written as text"])
    assert labels_of(value) == ([value.strip()], [])  # a class may be called so


@pytest.mark.parametrize(
    ("value", "kept", "dropped"),
    [
        ("[]", [], []),
        ('["dog", "cat"]', ["dog", "cat"], []),
        ("[1, 2.0]", ["1", "2"], []),
        ("['dog']", [], ["label is a list or an object written as text"]),
        ("\ud83d", [], ["label has half a surrogate pair"]),
        ("[dog]", ["[dog]"], []),
    ],
)
def test_labels_may_be_a_list_written_as_json(
    value: str, kept: list[str], dropped: list[str]
) -> None:
    assert labels_of(value) == (kept, dropped)


def test_a_list_of_ids_has_no_gaps() -> None:
    with pytest.raises(BadSample, match="members has an id that is missing"):
        ids_of(["4", ""], "members")


def test_labels_that_are_none_cost_themselves() -> None:
    assert labels_of("dog") == (["dog"], [])
    assert labels_of([]) == ([], [])
    assert labels_of(["dog", "", True, "cat"]) == (
        ["dog", "cat"],
        ["label is missing", "label is no text or whole number (but true or false)"],
    )


@pytest.mark.parametrize(
    "value",
    [
        [],
        {"1": "2"},
        {"1": ["2"]},
        {"1": [[True]]},
        {"1": [["2", None]]},
        {"": [["2"]]},
        {"1": [["2"]], " 1": []},
    ],
)
def test_relevance_of_another_form_is_refused(value: object) -> None:
    with pytest.raises(BadSample):
        relevance_of(value)


def test_relevance_may_name_images_by_numbers() -> None:
    assert relevance_of({"1": [[1, 2.0, "3"], []]}) == {"1": [["1", "2", "3"], []]}


@given(JSON)
def test_whatever_the_value_every_caption_is_kept_or_counted(value: object) -> None:
    found = captions_of(value)
    assert found.total == len(found.places) + len(found.dropped)
    assert all(isinstance(one, str) and one.strip() for one in found.kept)
    if isinstance(value, list):
        assert found.kept == [value[place] for place in found.places]
        assert found.total == len(value)


@given(JSON)
def test_an_id_is_none_or_a_text_or_refused(value: object) -> None:
    try:
        found = id_of(value)
    except BadSample:
        return
    assert found is None or (found and found == found.strip() == id_of(found))
    assert found is None or found == id_of(json.loads(json.dumps(value)))
