"""What a method retrieves for a few queries, to look at."""

from collections.abc import Sequence

import numpy as np

from xmodal.activity import tracked
from xmodal.data.decode import BadSample, decode_image
from xmodal.data.reader import SampleReader
from xmodal.data.samples import RawSample
from xmodal.evaluation.report.run_report import Example, Hit, Picture
from xmodal.evaluation.retrieved import Find, Part


def retrieved_examples(
    finds: Sequence[Find], samples: SampleReader, gallery: SampleReader | None = None
) -> list[Example]:
    """Return queries and what they find, as pictures and texts.

    `samples` reads what the queries are of, `gallery` what is found, where that is another set.
    """
    found = tracked(finds, "reading what was found: query")
    return [_example(find, samples, gallery or samples) for find in found]


def _example(find: Find, samples: SampleReader, gallery: SampleReader) -> Example:
    query, sample = find.query, samples[find.query.number]
    image = None if query.role == "caption" else _image(sample, query)
    text = None if query.role == "image" else _caption(sample, query)
    hits = [
        Hit(_item(gallery[part.number], part), right, score) for part, right, score in find.hits
    ]
    return Example(image, text, hits, find.rank)


def _item(sample: RawSample, part: Part) -> Picture | str:
    return _caption(sample, part) if part.role == "caption" else _image(sample, part)


def _image(sample: RawSample, part: Part) -> np.ndarray:
    try:
        return decode_image(sample.image("source" if part.role == "query" else "image"))
    except BadSample:
        return np.full((64, 64, 3), 200, np.uint8)  # a sample of features has no image to show


def _caption(sample: RawSample, part: Part) -> str:
    try:
        return sample.captions()[part.caption]
    except BadSample:
        return ", ".join(sample.labels()) or sample.key
