"""Which captions are true of which images, by the protocols that rank captions."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from xmodal.data.reader import SampleReader
from xmodal.data.samples import hash_id
from xmodal.errors import UserError
from xmodal.evaluation.gallery import Gallery

Relevance = Mapping[str, Sequence[Sequence[str]]]
KARPATHY = {"flickr-1k": 1000, "coco-5k": 5000, "coco-1k-5fold": 5000}  # images of a test split
CAPTIONS = 5  # of an image, in those splits
FOLD = 1000  # images


def relevant_pairs(gallery: Gallery, relevance: Relevance | None) -> Tensor:
    """Return the (image, text) rows that are right, (pairs, 2) int64.

    A caption is true of its own image and of all with the same image id, or of what `relevance`
    lists. Raises `UserError` when `relevance` does not fit the captions.
    """
    rows_of = defaultdict(list)
    for row, image_id in enumerate(gallery.image_ids.tolist()):
        rows_of[image_id].append(row)
    lists = None if relevance is None else {hash_id(k): v for k, v in relevance.items()}
    pairs: list[tuple[int, int]] = []
    numbers = gallery.caption_numbers().tolist()
    counts = gallery.owners.bincount(minlength=len(gallery.image_ids)).tolist()
    for text, owner in enumerate(gallery.owners.tolist()):
        image_id = int(gallery.image_ids[owner])
        true_ids = [image_id]
        if lists is not None:
            captions = lists.get(image_id, [])
            # Where a caption was dropped, its list would be taken for that of the next one.
            if len(captions) != counts[owner]:
                raise UserError(
                    f"relevance.json lists {len(captions)} captions of an image of which "
                    f"{counts[owner]} can be used; build the set again"
                )
            true_ids = [hash_id(one) for one in captions[numbers[text]]]
        pairs += [(row, text) for true_id in true_ids for row in rows_of[true_id]]
    return torch.tensor(pairs, dtype=torch.int64)


def check_size(protocol: str, images: int, url: str) -> None:
    """Raise `UserError` for a set that has not as many images as the protocol's test split."""
    wanted = KARPATHY.get(protocol, images)
    if images != wanted:
        raise UserError(
            f"{protocol} is measured on exactly {wanted:,} images, but {url} has {images:,}; use "
            "the split that it is defined on, or all-captions"
        )


def five_captions(gallery: Gallery, protocol: str, reader: SampleReader) -> Gallery:
    """Return the gallery of a Karpathy split: all images and the first five captions of each.

    Raises `UserError` for another number of images than the split has, of different ones, or an
    image with fewer captions.
    """
    url = reader.manifest.url
    check_size(protocol, len(gallery.image_ids.unique()), url)
    check_size(protocol, len(gallery.image_ids), url)
    counts = gallery.owners.bincount(minlength=len(gallery.images))
    if counts.min() < CAPTIONS:
        row = int((counts < CAPTIONS).nonzero()[0])
        shard, sample = reader.locate(int(gallery.numbers[row]))
        raise UserError(
            f"{protocol} is measured on {CAPTIONS} captions an image, but {shard.url}, "
            f"{sample.key} has {int(counts[row])}; use all-captions"
        )
    return gallery.first_captions(CAPTIONS)


def folds(gallery: Gallery) -> list[Gallery]:
    """Return consecutive parts of 1,000 images and their captions."""
    return [gallery.part(at, at + FOLD) for at in range(0, len(gallery.images), FOLD)]
