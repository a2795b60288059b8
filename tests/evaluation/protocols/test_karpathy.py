"""Splits of a fixed number of images."""

from pathlib import Path

import pytest
import torch

from tests.evaluation.protocols.test_ground_truth import gallery
from tests.shard_sets import described, write_shards
from tests.training_sets import npy
from xmodal.data.reader import SampleReader
from xmodal.errors import UserError
from xmodal.evaluation.protocols import coco_1k_5fold
from xmodal.evaluation.protocols.coco_1k_5fold import Coco1kFiveFold
from xmodal.evaluation.protocols.coco_5k import Coco5k
from xmodal.evaluation.protocols.flickr_1k import Flickr1k


@pytest.fixture
def reader(tmp_path: Path) -> SampleReader:
    samples = {f"s{n}": {"image.npy": npy(torch.zeros(1)), "json": described([])} for n in range(6)}
    return SampleReader(write_shards(tmp_path, [samples]))


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Flickr1k, "images", 4)
    monkeypatch.setattr(coco_1k_5fold, "FOLD", 2)


@pytest.mark.usefixtures("_small")
def test_a_split_of_the_right_size_has_five_captions_an_image(reader: SampleReader) -> None:
    found = Flickr1k().five_captions(gallery([5, 7, 6, 5]), reader)
    assert found.texts.tolist() == [10 * image + c for image in range(4) for c in range(5)]
    of_folds = coco_1k_5fold.folds(found)
    assert [fold.images.tolist() for fold in of_folds] == [[0, 1], [2, 3]]
    assert [len(fold.texts) for fold in of_folds] == [10, 10]


def test_the_splits_are_those_of_karpathy() -> None:
    assert [one.images for one in (Flickr1k, Coco5k, Coco1kFiveFold)] == [1000, 5000, 5000]
    assert coco_1k_5fold.FOLD == 1000


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
        Flickr1k().five_captions(gallery(captions, ids), reader)
    assert str(error.value).startswith(line.replace("URL", reader.manifest.url))
