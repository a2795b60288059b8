"""Specification of a set's samples: images or image features, captions or text features."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from xmodal.data.batch import BatchSpec, Fault
from xmodal.data.decode import BadSample, decode_image
from xmodal.data.reader import SampleReader
from xmodal.data.samples import IMAGES, RawSample
from xmodal.errors import UserError

PROBED = 64  # samples of a set, one of which must be usable

Shape = tuple[int, ...]


class SampleSpec(NamedTuple):
    """Shapes of the features of an image and of a caption; None for images and captions.

    In composed queries the image is the source; the target has the same shape.
    """

    image: Shape | None
    text: Shape | None
    lower: Shape | None = None  # of a lower layer's features of targets
    composed: bool = False


def infer_sample_spec(
    reader: SampleReader, texts: Mapping[str, float] | None = None, *, captions: int = 1
) -> SampleSpec:
    """Return the specification of a set's samples: that of the first usable one.

    `texts` are the keys that captions are drawn from; with `captions=0` captions are ignored.
    Raises `UserError` if no sample can be used.
    """
    for number in range(min(PROBED, len(reader))):
        sample = reader[number]
        try:
            return _infer(sample, texts or {}, captions)
        except BadSample as error:
            cause = Fault(sample.shard, sample.key, str(error))
    raise UserError(
        f"none of the first samples of {reader.manifest.url} can be used (the last {cause}); "
        f"run `python -m shards check {reader.manifest.url}`"
    )


def _infer(sample: RawSample, texts: Mapping[str, float], captions: int) -> SampleSpec:
    role = "source" if sample.composed else "image"
    image, text = sample.features(role), None
    if image is None:
        sample.image(role)
    if captions:
        text = sample.features("text")
        if text is None:
            sample.draw(0.0, texts)
    lower = sample.features("target.lower")
    return SampleSpec(
        None if image is None else image.shape,
        None if text is None else text.shape[1:],
        None if lower is None else lower.shape,
        sample.composed,
    )


def evaluated_parts(reader: SampleReader, contents: BatchSpec) -> BatchSpec:
    """Return the parts that evaluation reads of each sample: `contents`, without captions where a
    set has classes in their place.
    """
    if not contents.captions or has_captions(reader):
        return contents
    return replace(contents, captions=0)


def has_captions(reader: SampleReader) -> bool:
    """Return False for images with classes and no captions, by the first samples of a set."""
    has_labels = False
    for number in range(min(PROBED, len(reader))):
        sample = reader[number]
        with suppress(BadSample):
            if sample.composed or sample.said().total or sample.features("text") is not None:
                return True
            has_labels = has_labels or bool(sample.labels())
    return not has_labels


def features_of(sample: RawSample, side: str, shape: Shape) -> np.ndarray:
    """Return a sample's image features or `text` features, with the shape of its set.

    Raises `BadSample` if it has none, or others.
    """
    values = sample.features(side)
    if values is None:
        _explain(sample, side)
        raise BadSample("no features, which its data set has")
    if values.shape[side == "text" :] != shape:
        raise BadSample("features of another shape than the first sample's")
    return values


def parts_dropped(sample: RawSample) -> list[Fault]:
    """Return the captions and labels that were dropped from a sample that was used."""
    return [Fault(sample.shard, sample.key, cause, partial=True) for cause in sample.dropped]


def _explain(sample: RawSample, side: str) -> None:
    """Raise `BadSample` for what keeps a sample from having features.

    Cached features keep the unreadable files of the original, so that the cause is the same.
    """
    expected = {"source" if sample.composed else "image", side.partition(".")[0]}
    for role, names in IMAGES.items():
        there = role in expected or any(name in sample.files for name in names)
        if there and sample.features(role) is None:
            decode_image(sample.image(role))
    if side == "text":
        sample.captions()
