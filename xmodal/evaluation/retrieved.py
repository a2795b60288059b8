"""What a few queries find first, to look at: which parts of which samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from xmodal.activity import tracked
from xmodal.evaluation.gallery import Gallery
from xmodal.evaluation.metrics.classes import Classes
from xmodal.evaluation.metrics.ranking import Ranks, top_k
from xmodal.evaluation.metrics.similarity import Similarity, nearest
from xmodal.evaluation.metrics.tiles import Choice
from xmodal.evaluation.metrics.visual import same_image
from xmodal.evaluation.protocols.composed import Search

QUERIES = 6  # of each sort, spread evenly over the set
HITS = 5


class Part(NamedTuple):
    """A part of a sample, that is found or searched with."""

    number: int  # of the sample in its manifest
    role: Literal["image", "caption", "query"] = "image"  # query: a source and its modification
    caption: int = 0  # which of the sample's


@dataclass(frozen=True)
class Find:
    """What one query finds."""

    query: Part
    hits: list[tuple[Part, bool, float]]  # what, whether it is right, its score; best first
    rank: int | None  # 0-based, of the best right item; None where there is none


def pair_finds(
    gallery: Gallery, relevant_pairs: Tensor, ranks: Ranks, similarity: Similarity, tile: int
) -> list[Find]:
    """Return what captions find among images, then what images find among captions."""
    numbers = gallery.numbers.tolist()
    images = [Part(number) for number in numbers]
    texts = [
        Part(numbers[owner], "caption", caption)
        for owner, caption in zip(
            gallery.owners.tolist(), gallery.caption_numbers().tolist(), strict=True
        )
    ]
    pairs = {(image, text) for image, text in relevant_pairs.tolist()}
    finds = []
    for row in tracked(_evenly(len(texts)), "what captions find: query"):
        found = nearest(gallery.texts[[row]], gallery.images, HITS, similarity.swapped(), tile)
        hits = [(images[n], (n, row) in pairs, score) for n, score in _only(found)]
        finds.append(Find(texts[row], hits, int(ranks.text_to_image[row])))
    for row in tracked(_evenly(len(images)), "what images find: query"):
        found = nearest(gallery.images[[row]], gallery.texts, HITS, similarity, tile)
        hits = [(texts[n], (row, n) in pairs, score) for n, score in _only(found)]
        finds.append(Find(images[row], hits, int(ranks.image_to_text[row])))
    return finds


def visual_finds(gallery: Gallery, classes: Classes, tile: int) -> list[Find]:
    """Return what images find among the others; what shares a class is right."""
    parts = [Part(number) for number in gallery.numbers.tolist()]
    removed = same_image(gallery.image_ids)
    return _own_finds(parts, gallery.images, gallery, classes.shared_by, removed, tile)


def composed_finds(search: Search, tile: int) -> list[Find]:
    """Return what composed queries find, each in its own gallery."""
    queries = search.queries
    parts = [Part(number, "query") for number in queries.numbers.tolist()]
    return _own_finds(parts, queries.embeddings, search.gallery, search.right, search.removed, tile)


def _own_finds(
    parts: Sequence[Part],
    queries: Tensor,
    gallery: Gallery,
    right: Choice,
    removed: Choice,
    tile: int,
) -> list[Find]:
    """Return what some queries find among the images that are not removed for them."""
    finds = []
    for row in torch.tensor(_evenly(len(queries)), device=queries.device).split(1):
        gone, true = removed(row), right(row)[0].tolist()
        order = _in_order(queries[row], gallery.images, gone, tile)
        hits = [(Part(int(gallery.numbers[n])), true[n], score) for n, score in order[:HITS]]
        rank = next((place for place, (n, _) in enumerate(order) if true[n]), None)
        finds.append(Find(parts[int(row)], hits, rank))
    return finds


def _in_order(query: Tensor, images: Tensor, gone: Tensor, tile: int) -> list[tuple[int, float]]:
    """Return rows and scores of all images but those that are gone, best first."""
    found = top_k(query, images, len(images), tile=tile, removed=lambda _: gone)
    return _only(found)[: int((~gone).sum())]


def _evenly(total: int) -> list[int]:
    return [total * number // QUERIES for number in range(min(QUERIES, total))]


def _only(found: tuple[Tensor, Tensor]) -> list[tuple[int, float]]:
    """Return rows and scores of what one query finds."""
    scores, rows = found
    return list(zip(rows[0].tolist(), scores[0].tolist(), strict=True))
