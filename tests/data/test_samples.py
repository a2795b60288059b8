"""One sample: its captions, image, features and id, and what is wrong where it is."""

import json
import pickle
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.shard_sets import described, encode, plain
from tests.training_sets import npy
from xmodal.data.chance import fraction
from xmodal.data.decode import BadSample
from xmodal.data.samples import RawSample, hash_id

PNG = encode(plain(7))
NO_FEATURES = "image.npy has another shape than (features,) or (regions, features)"
NO_ARRAY = "image.npy is no array of numbers in NumPy's format 1, or is truncated"


def sample(**files: bytes | None) -> RawSample:
    """A sample of these files; `image_npy` is `image.npy`."""
    return RawSample("s.tar", "k", {name.replace("_", "."): data for name, data in files.items()})


def cause_of(function: object, *arguments: object) -> str:
    with pytest.raises(BadSample) as caught:
        function(*arguments)
    assert not caught.value.by_choice
    return str(caught.value)


def raised(function: Callable[[], object]) -> str:
    try:
        function()
    except BadSample as cause:
        return str(cause)
    return ""


@pytest.mark.parametrize(
    ("files", "captions"),
    [
        ({"json": described(["one", "two"])}, ["one", "two"]),
        ({"json": described("a string")}, ["a string"]),
        ({"json": described(["", "one", " ", "two"])}, ["one", "two"]),
        ({"json": described(["😀 é"])}, ["😀 é"]),
        ({"json": b'{"captions": ["\\ud83d\\ude00"]}'}, ["😀"]),
        ({"json": described(["x" * 10_000])}, ["x" * 10_000]),
        ({"txt": "  a café \n".encode()}, ["a café"]),
        ({"txt": b"text", "json": b"{}"}, ["text"]),
        ({"txt": b"text", "json": described(["json"])}, ["json"]),
        ({"txt": b"one\ntwo\r\n\n three \rfour\n"}, ["one", "two", "three", "four"]),
        ({"txt": b"\xef\xbb\xbfone"}, ["one"]),
        ({"json": b"\xef\xbb\xbf" + described(["one"])}, ["one"]),
        ({"json": b'{"captions": ["one"], "similarity": NaN}'}, ["one"]),
        ({"txt": b"text", "json": described("")}, ["text"]),
        ({"txt": b"text", "json": described([" "])}, ["text"]),
        ({"txt": b"text", "json": b'{"captions": NaN}'}, ["text"]),
        ({"txt": b"text", "json": b'{"captions": ["a"], "modification": ""}'}, ["a"]),
    ],
)
def test_captions_are_those_of_the_json_or_the_text(
    files: dict[str, bytes], captions: list[str]
) -> None:
    assert sample(**files).captions() == captions


@pytest.mark.parametrize(
    ("files", "cause"),
    [
        ({"png": PNG}, "no caption: expected captions in its json, or a txt"),
        ({"json": b"{}"}, "no caption: expected captions in its json, or a txt"),
        ({"json": described(None)}, "no caption: expected captions in its json, or a txt"),
        ({"json": b""}, "json is empty"),
        ({"json": None}, "json is truncated"),
        ({"json": b"{"}, "json does not parse"),
        ({"json": b"[" * 100_000}, "json does not parse"),
        ({"json": b'{"captions": ["x"], "id": ' + b"9" * 5000 + b"}"}, "json does not parse"),
        ({"json": b'["captions"]'}, "json is not an object"),
        ({"json": b"null"}, "json is not an object"),
        ({"json": b'{"captions": ["\xe9"]}'}, "caption in its json is not UTF-8"),
        ({"json": described({"a": 1})}, "caption is no text (but an object)"),
        ({"json": described(True)}, "caption is no text (but true or false)"),
        ({"json": described([1])}, "caption is no text (but a number)"),
        ({"json": described([None])}, "caption is no text (but null)"),
        ({"json": b'{"captions": NaN}'}, "no caption: expected captions in its json, or a txt"),
        ({"json": described([])}, "no caption: expected captions in its json, or a txt"),
        ({"json": described("")}, "no caption: expected captions in its json, or a txt"),
        ({"json": described([" ", ""])}, "caption is empty"),
        ({"json": described(["x" * 10_001])}, "caption is over 10,000 characters"),
        ({"json": described(["x" * 2**20])}, "caption is over 10,000 characters"),
        ({"json": described(["x"] * 1001)}, "more than 1,000 captions"),
        ({"json": described(["x" * 2**22])}, "json is over 4,194,304 bytes"),
        ({"json": b'{"captions": ["\\ud83d"]}'}, "caption has half a surrogate pair"),
        ({"json": described(["x"]).decode().encode("utf-16")}, "caption in its json is not UTF-8"),
        ({"txt": b""}, "txt is empty"),
        ({"txt": b" \n"}, "caption is empty"),
        ({"txt": b"caf\xe9"}, "caption in its txt is not UTF-8"),
        ({"txt": b"x" * 2**20}, "caption is over 10,000 characters"),
        ({"txt": b"x\n" * 1001}, "more than 1,000 captions"),
        ({"txt": b"\n" * 2**20}, "more than 1,000 captions"),
        ({"txt": b"x" * (2**22 + 1)}, "txt is over 4,194,304 bytes"),
    ],
)
def test_a_caption_that_cannot_be_used_says_why(files: dict[str, bytes], cause: str) -> None:
    assert cause_of(sample(**files).captions) == cause


@given(st.dictionaries(st.sampled_from(["json", "txt", "jpg", "image.npy", "text.npy"]),
                       st.one_of(st.none(), st.binary(max_size=200))))  # fmt: skip
def test_whatever_bytes_there_are_nothing_else_is_raised(files: Mapping[str, bytes | None]) -> None:
    found = RawSample("s.tar", "k", files)
    for function in (
        found.captions, found.image, lambda: found.features("image"),
        lambda: found.features("text"), lambda: found.image_id,
        lambda: found.draw(0.5, {"txt": 1, "x": 2}),
    ):  # fmt: skip
        assert len(raised(function)) < 100


def test_an_image_is_the_first_that_there_is() -> None:
    assert sample(jpg=b"j", png=b"p").image() == b"j"
    assert sample(webp=b"w").image() == b"w"
    assert cause_of(sample(txt=b"x").image) == "no image: expected a member jpg, jpeg, png, webp"
    assert cause_of(sample(jpg=b"").image) == "jpg is empty"
    assert cause_of(sample(jpg=None).image) == "jpg is truncated"
    assert cause_of(sample(source_jpg=PNG).image).startswith("no image")


@pytest.mark.parametrize("key", ["..", "../a", "a/../b", "/etc/../passwd", "a/.."])
def test_a_path_that_leads_out_is_doubted(key: str) -> None:
    doubted = RawSample("s.tar", key, {"txt": b"x", "jpg": PNG})
    assert cause_of(doubted.captions) == cause_of(doubted.image) == "`..` in its path"


@pytest.mark.parametrize("key", ["a..b", "...", "a/b..", "..a/b"])
def test_dots_in_names_lead_nowhere(key: str) -> None:
    assert RawSample("s.tar", key, {"txt": b"x"}).captions() == ["x"]


def test_a_doubt_is_what_is_wrong_with_every_file() -> None:
    doubted = RawSample("s.tar", "k", {"txt": b"x", "jpg": PNG, "image.npy": npy([1])}, "doubt")
    for use in (doubted.captions, doubted.image, lambda: doubted.image_id):
        assert cause_of(use) == "doubt"
    assert cause_of(doubted.features, "image") == "doubt"


@pytest.mark.parametrize(
    ("image_id", "same"),
    [({"image_id": 3}, True), ({"image_id": "x"}, True), ({"image_id": None}, False), ({}, False)],
)
def test_equal_image_ids_are_one_image_and_missing_ones_are_none(
    image_id: dict, same: bool
) -> None:
    files = {"json": described(["c"], **image_id)}
    one, other = (RawSample("s.tar", key, files).image_id for key in "ab")
    assert (one == other) is same


def test_ids_are_the_same_on_every_machine() -> None:
    assert hash_id("COCO_val2014_000000000042") == -3428200816886547024
    assert len({hash_id(f"{number}") for number in range(1000)}) == 1000
    assert hash_id("\udce9") != hash_id("\udcea")  # a key in a tar need not be UTF-8


# Texts under keys.


def drawn(one: RawSample, keys: dict[str, float], count: int = 4000) -> Counter[str]:
    return Counter(one.draw(fraction(5, position), keys) for position in range(count))


def assert_shares(found: Counter[str], shares: dict[str, float]) -> None:
    """Each within four standard deviations of its share."""
    total = found.total()
    assert set(found) <= set(shares)
    for text, share in shares.items():
        assert abs(found[text] - total * share) <= 4 * (total * share * (1 - share)) ** 0.5


def test_without_keys_all_captions_are_drawn_alike() -> None:
    assert_shares(drawn(sample(json=described(list("abcde"))), {}), dict.fromkeys("abcde", 0.2))


def test_keys_are_drawn_by_their_probabilities_then_a_text_of_theirs() -> None:
    one = sample(json=described(["c1", "c2"], alt="a", title=["t1", "t2", "t3"]), txt=b"text")
    found = drawn(one, {"captions": 1, "alt": 2, "title": 4, "txt": 1})
    shares = {"c1": 1 / 16, "c2": 1 / 16, "a": 1 / 4, "text": 1 / 8}
    assert_shares(found, shares | dict.fromkeys(("t1", "t2", "t3"), 1 / 6))


@pytest.mark.parametrize("absent", [{}, {"title": None}])
def test_a_missing_key_leaves_its_probability_to_the_others(absent: dict) -> None:
    one = sample(json=described(["c"], alt="a", **absent))
    found = drawn(one, {"title": 4, "alt": 1, "captions": 3, "txt": 5})
    assert_shares(found, {"a": 1 / 4, "c": 3 / 4})


def test_a_second_caption_is_another_one_where_there_is_one() -> None:
    def second(one: RawSample, keys: dict[str, float], besides: str) -> Counter[str]:
        return Counter(one.draw(fraction(5, p), keys, besides) for p in range(4000))

    assert_shares(second(sample(json=described(list("abca"))), {}, "a"), {"b": 0.5, "c": 0.5})
    assert set(second(sample(json=described(["a", "a"])), {}, "a")) == {"a"}
    one = sample(json=described(["a"], alt=["a", "b"], title=["c"]))
    found = second(one, {"captions": 5, "alt": 1, "title": 2}, "a")
    assert_shares(found, {"b": 1 / 3, "c": 2 / 3})
    assert set(second(one, {"captions": 1}, "a")) == {"a"}


def test_only_the_keys_that_are_asked_for_are_drawn() -> None:
    assert set(drawn(sample(json=described(["c"], alt="a"), txt=b"t"), {"alt": 0.1}, 100)) == {"a"}


def test_labels_are_put_into_templates_and_other_texts_are_not() -> None:
    one = sample(json=described(["c"], labels=["cat", "dog"]))
    templates = ("a {}.", "the {}, {}")
    sentences = ["a cat.", "a dog.", "the cat, cat", "the dog, dog"]
    found = Counter(
        one.draw(fraction(5, p), {"labels": 1, "captions": 1}, templates=templates)
        for p in range(4000)
    )
    assert_shares(found, {"c": 1 / 2} | dict.fromkeys(sentences, 1 / 8))
    second = {one.draw(fraction(5, p), {"labels": 1}, "a cat.", templates=templates[:1])
              for p in range(100)}  # fmt: skip
    assert second == {"a dog."}


@pytest.mark.parametrize(
    ("files", "cause"),
    [
        (
            {"json": described(["c"])},
            "no caption: expected alt or txt, the keys that `texts` draws from",
        ),
        ({"png": PNG}, "no caption: expected alt or txt, the keys that `texts` draws from"),
        ({"json": described(["c"], alt=3)}, "alt is no text (but a number)"),
        (
            {"json": described(["c"], alt="")},
            "no caption: expected alt or txt, the keys that `texts` draws from",
        ),
        ({"json": described(["c"], alt="x" * 10_001)}, "alt is over 10,000 characters"),
        ({"json": b"[]", "txt": b"x"}, "json is not an object"),
    ],
)
def test_texts_that_cannot_be_used_say_why(files: dict[str, bytes], cause: str) -> None:
    keys = {"alt": 1.0, "txt": 1.0}
    assert cause_of(sample(**files).draw, 0.5, keys) == cause


# Features.


@pytest.mark.parametrize("kind", ["<f4", "<f2", "<f8", ">f4", "|u1", "<i8"])
@pytest.mark.parametrize("shape", [(4,), (1,), (2, 3)])
def test_features_are_float32_of_any_kind_of_number(kind: str, shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape)).reshape(shape).astype(kind)
    for order in "CF":
        found = sample(image_npy=npy(np.array(values, order=order))).features("image")
        assert found.flags.c_contiguous
        assert np.array_equal(found, values)
    assert found.dtype == np.float32
    assert found.dtype.isnative
    assert np.array_equal(found, values)


def test_features_of_text_have_a_row_a_caption() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.array_equal(sample(text_npy=npy(values)).features("text"), values)
    assert cause_of(sample(text_npy=npy(values[0])).features, "text") == (
        "text.npy has no row a caption"
    )
    assert cause_of(sample(text_npy=npy(values[:0])).features, "text") == (
        "text.npy has no row a caption"
    )


def test_what_has_no_features_has_none() -> None:
    assert sample(txt=b"x").features("image") is None
    assert sample(image_npy=npy([1.0])).features("text") is None


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_no_pickle_is_loaded(tmp_path: Path) -> None:
    trap = Trap(tmp_path / "sprung")
    objects = npy(np.array([trap], dtype=object), allow_pickle=True)
    pickled = pickle.dumps(trap)
    # A header that lies: numbers by its kind, a pickle by its bytes.
    numbers = npy(np.zeros(len(pickled), np.uint8))[: -len(pickled)] + pickled
    fields = npy(np.array([(trap,)], dtype=[("a", object)]), allow_pickle=True)
    for data in (objects, pickled, fields):
        cause = cause_of(sample(image_npy=data).features, "image")
        assert cause == NO_ARRAY
        cause_of(sample(json=data).captions)
        cause_of(sample(txt=data).captions)
    assert sample(image_npy=numbers).features("image").tolist() == list(pickled)
    assert not trap.path.exists()
    pickle.loads(pickled)  # the trap does spring
    assert trap.path.exists()


WHOLE = npy(np.arange(4, dtype=np.float32))


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (WHOLE[:-1], NO_ARRAY),
        (WHOLE[:-4], NO_ARRAY),
        (WHOLE + b"x", NO_ARRAY),
        (WHOLE[:20], NO_ARRAY),
        (WHOLE[:9], NO_ARRAY),
        (WHOLE[:4], NO_ARRAY),
        (b"text", NO_ARRAY),
        (b"", "image.npy is empty"),
        (None, "image.npy is truncated"),
        (WHOLE.replace(b"(4,), } ", b"(-2,-2)}"), NO_ARRAY),
        (WHOLE.replace(b"(4,), ", b"(\0\0\0) "), NO_ARRAY),
        (npy(np.array([np.inf, -np.inf])), "image.npy has values that are not finite"),
        (npy(np.array([1, np.nan])), "image.npy has values that are not finite"),
        (npy(np.array([1, np.inf])), "image.npy has values that are not finite"),
        (npy(np.array([1e300])), "image.npy has values that are not finite"),
        (npy(np.array(["a"])), NO_ARRAY),
        (npy(np.array([1j])), NO_ARRAY),
        (npy(np.array([True])), NO_ARRAY),
        (npy(np.float32(1)), NO_FEATURES),
        (npy(np.ones((2, 3, 4))), NO_FEATURES),
        (npy(np.ones((2, 0))), NO_FEATURES),
        (npy(np.ones((1, 2**26 + 1), np.int8)), "image.npy has over 67,108,864 values"),
        (npy(np.ones(3, dtype=[("a", "f4")])), NO_ARRAY),
        (WHOLE.replace(b"(4,)", b"(-4)"), NO_ARRAY),
        (WHOLE.replace(b"(4,), ", b"(-4,),"), NO_ARRAY),
        (WHOLE.replace(b"(4,)", b"4   "), NO_ARRAY),
        (WHOLE.replace(b"'<f4'", b"'<x9'"), NO_ARRAY),
        (WHOLE.replace(b"{'descr'", b"{[[[[[[["), NO_ARRAY),
        (WHOLE.replace(b"(4,)", b"(4.)"), NO_ARRAY),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("error")
def test_features_that_cannot_be_used_say_why(data: bytes | None, cause: str) -> None:
    assert cause_of(sample(image_npy=data).features, "image") == cause


@pytest.mark.filterwarnings("error")
def test_large_features_are_finite_though_their_sum_is_not() -> None:
    values = np.full(8, 3e38, dtype=np.float32)
    assert np.array_equal(sample(image_npy=npy(values)).features("image"), values)


def test_a_shape_that_overflows_is_no_array() -> None:
    """2^32 × 2^32 elements are 0 in 64 bits, which would fit an empty file."""
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }\n"
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    assert cause_of(sample(image_npy=data).features, "image") == (NO_ARRAY)


@given(st.binary(max_size=60), st.integers(0, 60))
def test_no_header_breaks_more_than_its_sample(noise: bytes, at: int) -> None:
    data = WHOLE[: 8 + at] + noise + WHOLE[8 + at + len(noise) :]
    cause = raised(lambda: sample(image_npy=data).features("image"))
    assert cause == "" or cause.startswith("image.npy ")


def test_a_json_may_hold_more_than_is_used() -> None:
    record = {"captions": ["c"], "labels": ["x"], "nested": {"a": [1, {"b": None}]}}
    assert sample(json=json.dumps(record).encode()).record == record


def test_an_image_id_is_text_or_a_number() -> None:
    def named(value: bytes) -> RawSample:
        return RawSample("s.tar", "k", {"json": b'{"captions": ["c"], "image_id": ' + value + b"}"})

    assert named(b"7").image_id == "7"
    with pytest.raises(BadSample, match="image_id is no text or whole number"):
        _ = named(b'{"a": 1}').image_id


def test_a_text_file_stands_for_captions_that_are_none() -> None:
    sample = RawSample("s.tar", "k", {"json": b'{"captions": []}', "txt": b"a dog"})
    assert sample.captions() == ["a dog"]


# Composed queries.


def test_a_query_has_two_images_and_one_caption() -> None:
    one = sample(
        json=described(["a", "b"], modification="is red", source_id=1, target_id="t"),
        **{"source.jpg": b"1", "source.webp": b"2", "target.png": b"3"},
    )
    assert one.composed
    assert one.captions() == ["is red"]
    assert (one.image("source"), one.image("target")) == (b"1", b"3")
    assert (one.source_id, one.target_id) == ("1", "t")
    assert cause_of(one.image).startswith("no image: expected a member jpg, ")


@pytest.mark.parametrize("json", [described(["a"]), described(["a"], modification=None), b"{}"])
def test_a_sample_without_a_modification_is_no_query(json: bytes) -> None:
    one = sample(json=json)
    assert not one.composed
    assert one.target_id is None
    assert cause_of(lambda: one.source_id) == "no source_id in its json"


def test_features_of_a_query_are_of_source_target_and_its_lower_layer() -> None:
    names = ("source", "target", "target.lower")
    one = sample(**{f"{name}.npy": npy(np.full(2, n)) for n, name in enumerate(names)})
    assert [one.features(name).tolist() for name in names] == [[0, 0], [1, 1], [2, 2]]
