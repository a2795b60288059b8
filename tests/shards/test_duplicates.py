"""Equal images under different ids are found, in bounded memory."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.duplicates import Duplicates, ImageDigests


def found(tars: Sequence[Sequence[tuple[bytes, str]]], limit: int = 10_000) -> Duplicates:
    names = [f"{number}.tar" for number in range(len(tars))]
    duplicates = Duplicates(names, limit)
    for name, images in zip(names, tars, strict=True):
        digests = ImageDigests()
        for number, (image, image_id) in enumerate(images, 1):
            digests.add(image, image_id, number)
        duplicates.add(name, digests.rows)
    return duplicates


def test_a_row_a_caption_is_named() -> None:
    said = str(found([[(b"a", "1"), (b"b", "2")], [(b"c", "3"), (b"a", "4"), (b"a", "5")]]))
    assert said.startswith(
        "1 images occur several times under different ids, in 3 samples (0.tar sample 1 and 1.tar "
        "sample 2 have the same bytes): give samples of one image the same image_id"
    )


def test_images_that_their_ids_join_are_none() -> None:
    assert not str(found([[(b"a", "1"), (b"a", "1")], [(b"a", "1"), (b"b", "2")]]))
    assert not str(found([]))
    assert not str(found([[]]))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=30))
def test_as_a_plain_count(pairs: list[tuple[int, int]]) -> None:
    ids: dict[int, set[int]] = {}
    for image, image_id in pairs:
        ids.setdefault(image, set()).add(image_id)
    several = {image for image, its in ids.items() if len(its) > 1}
    samples = sum(image in several for image, _ in pairs)
    tar = [(bytes([image]), str(image_id)) for image, image_id in pairs]
    said = str(found([tar[::2], tar[1::2]]))
    assert said.startswith(f"{len(several)} images occur several times" if several else "")
    assert bool(said) == bool(several)
    assert not several or f"in {samples} samples" in said


def test_of_many_images_a_fair_part_is_looked_at() -> None:
    tars = [[(str(n).encode(), f"{tar}-{n}") for n in range(5_000)] for tar in range(4)]
    duplicates = found(tars, limit=2_500)
    assert sum(map(len, duplicates._kept)) <= 2_500
    assert duplicates.part in (3, 4)
    about = int(str(duplicates).split()[1].replace(",", ""))
    assert about == pytest.approx(5_000, rel=0.2)


def test_memory_is_that_of_the_digests() -> None:
    (rows,) = found([[(b"a" * 1000, "1")]])._kept
    assert rows.nbytes == 24
