"""Pictures and texts of retrieved examples."""

from collections.abc import Sequence

import numpy as np

from xmodal.activity import tracked
from xmodal.data.decode import BadSample, decode_image
from xmodal.data.reader import SampleReader
from xmodal.data.samples import RawSample
from xmodal.evaluation.report.run_report import Example, Hit, Picture
from xmodal.evaluation.retrieved import Part, RetrievedExample


def load_examples(
    retrieved: Sequence[RetrievedExample],
    samples: SampleReader,
    gallery: SampleReader | None = None,
) -> list[Example]:
    """Return queries and their hits as pictures and texts.

    `samples` reads the queries, `gallery` the hits, where these are of another set.
    """
    found = tracked(retrieved, "reading what was found: query")
    return [_example(one, samples, gallery or samples) for one in found]


def _example(found: RetrievedExample, samples: SampleReader, gallery: SampleReader) -> Example:
    query, sample = found.query, samples[found.query.number]
    image = None if query.role == "caption" else picture_of(sample, query)
    text = None if query.role == "image" else text_of(sample, query)
    hits = [
        Hit(_item(gallery[part.number], part), relevant, score)
        for part, relevant, score in found.hits
    ]
    return Example(image, text, hits, found.rank)


def _item(sample: RawSample, part: Part) -> Picture | str:
    return text_of(sample, part) if part.role == "caption" else picture_of(sample, part)


def picture_of(sample: RawSample, part: Part) -> np.ndarray:
    """Return the picture of a sample, a query's source, as pixels; grey where it has none."""
    try:
        return decode_image(sample.image("source" if part.role == "query" else "image"))
    except BadSample:
        return np.full((64, 64, 3), 200, np.uint8)  # a sample of features has no image to show


def text_of(sample: RawSample, part: Part) -> str:
    """Return a caption of a sample, or its labels or key where it has none."""
    try:
        return sample.captions()[part.caption]
    except BadSample:
        return ", ".join(sample.labels()) or sample.key
