"""Ground truth of captions."""

from collections.abc import Mapping, Sequence

import pytest
import torch

from xmodal.data.samples import hash_id
from xmodal.errors import UserError
from xmodal.evaluation.gallery import Gallery
from xmodal.evaluation.protocols.ground_truth import ground_truth


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
    return {tuple(pair) for pair in ground_truth(found, relevance).tolist()}


def test_a_caption_is_relevant_to_its_image_and_to_equal_ones() -> None:
    assert pairs(gallery([2, 1]), None) == {(0, 0), (0, 1), (1, 2)}
    same = gallery([2, 1, 1], ["a", "b", "a"])
    assert pairs(same, None) == {(0, 0), (0, 1), (2, 0), (2, 1), (1, 2), (0, 3), (2, 3)}


def test_relevance_lists_the_ground_truth() -> None:
    listed = {"0": [["0", "1"], ["1"]], "1": [["1", "unknown"]]}
    assert pairs(gallery([2, 1]), listed) == {(0, 0), (1, 0), (1, 1), (1, 2)}
    for counts in ([3, 1], [1, 1]):
        # Where a caption was dropped, nobody knows whose list is whose.
        with pytest.raises(UserError, match=r"^relevance\.json lists 2 captions of an image, and"):
            ground_truth(gallery(counts), listed)
