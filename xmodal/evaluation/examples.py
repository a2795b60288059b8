"""What a method retrieves for a few queries, to look at."""

import numpy as np
import torch

from xmodal.data.decode import BadSample, decode_image
from xmodal.data.reader import SampleReader
from xmodal.evaluation.ranking import Score, top_k
from xmodal.evaluation.report import Example, Hit
from xmodal.evaluation.retrieval import Retrieval

QUERIES = 6  # captions, and as many images, spread evenly over the set
HITS = 5


def retrieved_examples(retrieval: Retrieval, samples: SampleReader, score: Score) -> list[Example]:
    """Return captions with their best images, then images with their best captions.

    `samples` reads the images and captions that `retrieval` was measured on.
    """
    return [
        *_caption_queries(retrieval, samples, score),
        *_image_queries(retrieval, samples, score),
    ]


def _caption_queries(retrieval: Retrieval, samples: SampleReader, score: Score) -> list[Example]:
    gallery, true = retrieval.gallery, _pair_set(retrieval)
    queries = _spread(len(gallery.texts))
    scores, found = top_k(gallery.texts[queries], gallery.images, HITS, _swapped(score))
    return [
        Example(
            _caption(retrieval, samples, text),
            [
                Hit(_image(retrieval, samples, image), (image, text) in true, value)
                for image, value in zip(images, values, strict=True)
            ],
            int(retrieval.ranks.text_to_image[text]),
        )
        for text, images, values in zip(queries, found.tolist(), scores.tolist(), strict=True)
    ]


def _image_queries(retrieval: Retrieval, samples: SampleReader, score: Score) -> list[Example]:
    gallery, true = retrieval.gallery, _pair_set(retrieval)
    queries = _spread(len(gallery.images))
    scores, found = top_k(gallery.images[queries], gallery.texts, HITS, score)
    return [
        Example(
            _image(retrieval, samples, image),
            [
                Hit(_caption(retrieval, samples, text), (image, text) in true, value)
                for text, value in zip(texts, values, strict=True)
            ],
            int(retrieval.ranks.image_to_text[image]),
        )
        for image, texts, values in zip(queries, found.tolist(), scores.tolist(), strict=True)
    ]


def _swapped(score: Score) -> Score:
    """Return the score of texts with images: a method scores images with texts."""
    return lambda texts, images: score(images, texts).T


def _spread(total: int) -> list[int]:
    return [total * i // QUERIES for i in range(min(QUERIES, total))]


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
        return ", ".join(sample.record.get("labels", [])) or sample.key
