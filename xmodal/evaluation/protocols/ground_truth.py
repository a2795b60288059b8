"""Ground truth of captions: which images they are relevant to."""

from collections import defaultdict

import torch
from torch import Tensor

from xmodal.data.samples import hash_id
from xmodal.errors import UserError
from xmodal.evaluation.gallery import Gallery, Relevance


def ground_truth(gallery: Gallery, relevance: Relevance | None) -> Tensor:
    """Return the (image, text) rows that are relevant to each other, (pairs, 2) int64.

    A caption is relevant to its own image and to all with the same image id, or to what
    `relevance` lists. Raises `UserError` when `relevance` does not fit the captions.
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
        ids = [image_id]
        if lists is not None:
            captions = lists.get(image_id, [])
            # Where a caption was dropped, its list would be taken for that of the next one.
            if len(captions) != counts[owner]:
                raise UserError(
                    f"relevance.json lists {len(captions)} captions of an image, and "
                    f"{counts[owner]} of them can be used; build the set again"
                )
            ids = [hash_id(one) for one in captions[numbers[text]]]
        pairs += [(row, text) for image in ids for row in rows_of[image]]
    return torch.tensor(pairs, dtype=torch.int64)
