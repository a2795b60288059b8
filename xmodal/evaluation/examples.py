"""What a method retrieves for a few queries, to look at."""

from collections.abc import Iterator

import numpy as np
import torch

from xmodal.data.decode import BadSample, decode_image
from xmodal.data.reader import SampleReader
from xmodal.evaluation.report import Example, Hit
from xmodal.evaluation.retrieval import Found, Retrieval


def retrieved_examples(retrieval: Retrieval, samples: SampleReader) -> list[Example]:
    """Return captions with their best images, then images with their best captions.

    `samples` reads the images and captions that `retrieval` was measured on.
    """
    return [*_caption_queries(retrieval, samples), *_image_queries(retrieval, samples)]


def _caption_queries(retrieval: Retrieval, samples: SampleReader) -> list[Example]:
    true = _pair_set(retrieval)
    return [
        Example(
            _caption(retrieval, samples, text),
            [
                Hit(_image(retrieval, samples, image), (image, text) in true, value)
                for image, value in hits
            ],
            int(retrieval.ranks.text_to_image[text]),
        )
        for text, hits in _hits(retrieval.images_found)
    ]


def _image_queries(retrieval: Retrieval, samples: SampleReader) -> list[Example]:
    true = _pair_set(retrieval)
    return [
        Example(
            _image(retrieval, samples, image),
            [
                Hit(_caption(retrieval, samples, text), (image, text) in true, value)
                for text, value in hits
            ],
            int(retrieval.ranks.image_to_text[image]),
        )
        for image, hits in _hits(retrieval.texts_found)
    ]


def _hits(found: Found) -> Iterator[tuple[int, list[tuple[int, float]]]]:
    """Yield each query's row, and the rows and scores of what it finds."""
    for query, items, scores in zip(
        found.queries, found.items.tolist(), found.scores.tolist(), strict=True
    ):
        yield query, list(zip(items, scores, strict=True))


def _pair_set(retrieval: Retrieval) -> set[tuple[int, int]]:
    return {(image, text) for image, text in retrieval.true_pairs.tolist()}


def _image(retrieval: Retrieval, samples: SampleReader, row: int) -> np.ndarray:
    try:
        return decode_image(samples[int(retrieval.gallery.numbers[row])].image())
    except BadSample:
        return np.full((64, 64, 3), 200, np.uint8)  # a sample of features has no image to show


def _caption(retrieval: Retrieval, samples: SampleReader, text: int) -> str:
    owner = int(retrieval.gallery.owners[text])
    first = int(torch.searchsorted(retrieval.gallery.owners, owner))
    sample = samples[int(retrieval.gallery.numbers[owner])]
    try:
        return sample.captions()[text - first]
    except BadSample:
        return ", ".join(sample.labels()) or sample.key
