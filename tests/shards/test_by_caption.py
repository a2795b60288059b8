"""Splits by caption: no caption on two sides, the same split each time, all right images known."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from shards.by_caption import splits_by_caption
from shards.source import Item


def captioned(*captions: str) -> list[Item]:
    return [Item(str(n), Path(f"{n}.jpg"), [caption]) for n, caption in enumerate(captions)]


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=3), max_size=40), st.randoms())
def test_a_caption_is_on_one_side_and_knows_all_its_images(captions: list[str], random) -> None:
    items = captioned(*captions)
    splits = {name: make() for name, make in splits_by_caption(items).items()}
    sides = {name: {item.captions[0].casefold() for item in s.items} for name, s in splits.items()}
    assert sum(len(side) for side in sides.values()) == len(set.union(*sides.values()))
    kept = [item for split in splits.values() for item in split.items]
    assert sorted(item.image_id for item in kept) == sorted(item.image_id for item in items)
    said = {item.image_id: item.captions[0].casefold() for item in items}
    for split in splits.values():
        assert split.relevance is not None
        assert set(split.relevance) == {item.image_id for item in split.items}
        for image_id, [relevant] in split.relevance.items():
            assert set(relevant) == {other for other in said if said[other] == said[image_id]}

    random.shuffle(items)
    again = {name: make() for name, make in splits_by_caption(items).items()}
    assert again == splits


def test_about_eight_of_ten_are_trained_on_and_the_split_never_changes() -> None:
    splits = splits_by_caption(captioned(*(f"caption {n}" for n in range(10_000))))
    sizes = {name: len(make().items) for name, make in splits.items()}
    assert abs(sizes["train"] - 8000) < 150
    assert abs(sizes["val"] - 1000) < 100
    # A release that splits otherwise would put what was trained on into the test.
    assert [item.image_id for item in splits["test"]().items][:3] == ["1003", "1006", "101"]


def test_captions_of_one_key_are_on_one_side_and_what_is_skipped_is_said_once() -> None:
    items = captioned(*(f"{colour} {n}" for n in range(50) for colour in ("red", "blue")))
    skipped = [("7", "no name", "")]
    splits = splits_by_caption(items, lambda caption: caption.split()[1], skipped)
    found = {name: make() for name, make in splits.items()}
    for split in found.values():
        numbers = [item.captions[0].split()[1] for item in split.items]
        assert all(numbers.count(number) == 2 for number in numbers)
    assert [split.skipped for split in found.values()] == [skipped, (), ()]
    # Images are each other's right ones by their captions, not by the key.
    assert found["train"].relevance is not None
    assert all(len(said) == 1 for [said] in found["train"].relevance.values())
