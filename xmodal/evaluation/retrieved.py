"""Retrieved examples: the first hits of a few queries, as parts of samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from xmodal.activity import tracked
from xmodal.evaluation.gallery import Gallery
from xmodal.evaluation.metrics.ranking import Ranks
from xmodal.evaluation.metrics.similarity import Similarity, nearest
from xmodal.evaluation.metrics.tiles import Choice
from xmodal.evaluation.metrics.top_k import top_k

QUERIES = 6  # of each sort, spread evenly over the set
HITS = 5


class Part(NamedTuple):
    """A part of a sample: a query or a hit."""

    number: int  # of the sample in its manifest
    role: Literal["image", "caption", "query"] = "image"  # query: a source and its modification
    caption: int = 0  # the number of the sample's caption


@dataclass(frozen=True)
class RetrievedExample:
    """A query and its hits."""

    query: Part
    hits: list[tuple[Part, bool, float]]  # item, whether it is relevant, score; best first
    rank: int | None  # 0-based, of the best relevant item; None where there is none


def top_hits(
    gallery: Gallery, relevant_pairs: Tensor, ranks: Ranks, similarity: Similarity, tile: int
) -> list[RetrievedExample]:
    """Return images retrieved by captions, then captions retrieved by images."""
    numbers = gallery.numbers.tolist()
    images = [Part(number) for number in numbers]
    texts = [
        Part(numbers[owner], "caption", caption)
        for owner, caption in zip(
            gallery.owners.tolist(), gallery.caption_numbers().tolist(), strict=True
        )
    ]
    pairs = {(image, text) for image, text in relevant_pairs.tolist()}
    examples = []
    for row in tracked(_evenly(len(texts)), "what captions find: query"):
        found = nearest(gallery.texts[[row]], gallery.images, HITS, similarity.swapped(), tile)
        hits = [(images[n], (n, row) in pairs, score) for n, score in _only(found)]
        examples.append(RetrievedExample(texts[row], hits, int(ranks.text_to_image[row])))
    for row in tracked(_evenly(len(images)), "what images find: query"):
        found = nearest(gallery.images[[row]], gallery.texts, HITS, similarity, tile)
        hits = [(texts[n], (row, n) in pairs, score) for n, score in _only(found)]
        examples.append(RetrievedExample(images[row], hits, int(ranks.image_to_text[row])))
    return examples


def top_images(
    parts: Sequence[Part],
    queries: Tensor,
    gallery: Gallery,
    relevant: Choice,
    removed: Choice,
    tile: int,
) -> list[RetrievedExample]:
    """Return the images retrieved by some queries, except those removed for them."""
    examples = []
    for row in torch.tensor(_evenly(len(queries)), device=queries.device).split(1):
        gone, is_relevant = removed(row), relevant(row)[0].tolist()
        order = _in_order(queries[row], gallery.images, gone, tile)
        hits = [(Part(int(gallery.numbers[n])), is_relevant[n], score) for n, score in order[:HITS]]
        rank = next((place for place, (n, _) in enumerate(order) if is_relevant[n]), None)
        examples.append(RetrievedExample(parts[int(row)], hits, rank))
    return examples


def _in_order(query: Tensor, images: Tensor, gone: Tensor, tile: int) -> list[tuple[int, float]]:
    """Return rows and scores of the images that are not removed, best first."""
    found = top_k(query, images, len(images), tile=tile, removed=lambda _: gone)
    return _only(found)[: int((~gone).sum())]


def _evenly(total: int) -> list[int]:
    return [total * number // QUERIES for number in range(min(QUERIES, total))]


def _only(found: tuple[Tensor, Tensor]) -> list[tuple[int, float]]:
    """Return rows and scores of the hits of one query."""
    scores, rows = found
    return list(zip(rows[0].tolist(), scores[0].tolist(), strict=True))
