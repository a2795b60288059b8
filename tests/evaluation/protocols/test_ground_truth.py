"""Which captions are true of which images, and the splits that are of a fixed size."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

from tests.shard_sets import described, write_shards
from tests.training_sets import npy
from xmodal.data.reader import SampleReader
from xmodal.data.samples import hash_id
from xmodal.errors import UserError
from xmodal.evaluation.gallery import Gallery
from xmodal.evaluation.protocols import ground_truth as module
from xmodal.evaluation.protocols.ground_truth import five_captions, folds, relevant_pairs


def gallery(captions: Sequence[int], image_ids: Sequence[str] | None = None) -> Gallery:
    """Images that are their numbers, and texts that are 10 × image + caption."""
    images = torch.arange(len(captions))
    ids = torch.tensor([hash_id(one) for one in image_ids or map(str, range(len(captions)))])
    owners = images.repeat_interleave(torch.tensor(captions))
    found = Gallery(images, ids, images, owners, owners, [[str(n)] for n in images.tolist()])
    found.texts = 10 * owners + found.caption_numbers()
    return found


def test_captions_are_counted_by_image() -> None:
    assert gallery([2, 1, 3]).caption_numbers().tolist() == [0, 1, 0, 0, 1, 2]


def test_the_first_captions_of_each_image() -> None:
    first = gallery([2, 1, 3]).first_captions(2)
    assert first.texts.tolist() == [0, 1, 10, 20, 21]
    assert first.owners.tolist() == [0, 0, 1, 2, 2]
    assert first.images.tolist() == [0, 1, 2]


def test_a_part_is_images_with_their_captions() -> None:
    part = gallery([2, 1, 3, 1]).part(1, 3)
    assert part.images.tolist() == part.numbers.tolist() == [1, 2]
    assert part.texts.tolist() == [10, 20, 21, 22]
    assert part.owners.tolist() == [0, 1, 1, 1]
    assert part.labels == [["1"], ["2"]]


def pairs(found: Gallery, relevance: Mapping[str, Sequence[Sequence[str]]] | None) -> set:
    return {tuple(pair) for pair in relevant_pairs(found, relevance).tolist()}


def test_a_caption_is_true_of_its_image_and_of_its_likes() -> None:
    assert pairs(gallery([2, 1]), None) == {(0, 0), (0, 1), (1, 2)}
    same = gallery([2, 1, 1], ["a", "b", "a"])
    assert pairs(same, None) == {(0, 0), (0, 1), (2, 0), (2, 1), (1, 2), (0, 3), (2, 3)}


def test_relevance_lists_what_a_caption_is_true_of() -> None:
    listed = {"0": [["0", "1"], ["1"]], "1": [["1", "unknown"]]}
    assert pairs(gallery([2, 1]), listed) == {(0, 0), (1, 0), (1, 1), (1, 2)}
    for counts in ([3, 1], [1, 1]):
        # Where a caption was dropped, nobody knows whose list is whose.
        with pytest.raises(UserError, match=r"^relevance\.json lists 2 captions of an image of wh"):
            relevant_pairs(gallery(counts), listed)


@pytest.fixture
def reader(tmp_path: Path) -> SampleReader:
    samples = {f"s{n}": {"image.npy": npy(torch.zeros(1)), "json": described([])} for n in range(6)}
    return SampleReader(write_shards(tmp_path, [samples]))


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KARPATHY", {"flickr-1k": 4, "coco-5k": 6})
    monkeypatch.setattr(module, "FOLD", 2)


@pytest.mark.usefixtures("_small")
def test_a_split_of_the_right_size_has_five_captions_an_image(reader: SampleReader) -> None:
    found = five_captions(gallery([5, 7, 6, 5]), "flickr-1k", reader)
    assert found.texts.tolist() == [10 * image + c for image in range(4) for c in range(5)]
    of_folds = folds(found)
    assert [fold.images.tolist() for fold in of_folds] == [[0, 1], [2, 3]]
    assert [len(fold.texts) for fold in of_folds] == [10, 10]


def test_the_splits_are_those_of_karpathy() -> None:
    assert module.KARPATHY == {"flickr-1k": 1000, "coco-5k": 5000, "coco-1k-5fold": 5000}
    assert module.FOLD == 1000


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize(
    ("captions", "ids", "line"),
    [
        ([5] * 5, None, "flickr-1k is measured on exactly 4 images, but URL has 5; use the split"),
        ([5] * 3, None, "flickr-1k is measured on exactly 4 images, but URL has 3; use the split"),
        ([5] * 4, list("abca"), "flickr-1k is measured on exactly 4 images, but URL has 3; "),
        ([5] * 5, list("abcda"), "flickr-1k is measured on exactly 4 images, but URL has 5; "),
        (
            [5, 6, 4, 5],
            None,
            "flickr-1k is measured on 5 captions an image, but URL/set-000000.tar, s2 has 4; use",
        ),
    ],
)
def test_another_set_is_an_error_that_says_what_was_found(
    captions: list[int], ids: list[str] | None, line: str, reader: SampleReader
) -> None:
    with pytest.raises(UserError) as error:
        five_captions(gallery(captions, ids), "flickr-1k", reader)
    assert str(error.value).startswith(line.replace("URL", reader.manifest.url))
