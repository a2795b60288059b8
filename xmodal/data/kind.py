"""What the samples of a set are made of: images or features of them, captions or features."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from xmodal.data.batch import Fault
from xmodal.data.decode import BadSample, decode_image
from xmodal.data.reader import SampleReader
from xmodal.data.samples import RawSample
from xmodal.errors import UserError

PROBED = 64  # samples of a set, one of which has to say what all are like

Shape = tuple[int, ...]


class Kind(NamedTuple):
    """The shapes of features of an image and of a caption; None where there are none."""

    image: Shape | None
    text: Shape | None


def kind_of(reader: SampleReader, texts: Mapping[str, float] | None = None) -> Kind:
    """Return what a set's samples are like: as the first one that can be used.

    `texts` are the keys that captions are drawn from. Raises `UserError` where none can be used.
    """
    for number in range(min(PROBED, len(reader))):
        try:
            sample = reader[number]
            image, text = sample.features("image"), sample.features("text")
            if image is None:
                sample.image()
            if text is None:
                sample.draw(0.0, texts or {})
        except BadSample as error:
            cause = Fault(sample.shard, sample.key, str(error))
            continue
        return Kind(
            None if image is None else image.shape, None if text is None else text.shape[1:]
        )
    raise UserError(
        f"none of the first samples of {reader.manifest.url} can be used (the last {cause}); "
        f"run `python -m shards check {reader.manifest.url}`"
    )


def features_of(sample: RawSample, side: str, shape: Shape) -> np.ndarray:
    """Return a sample's features of its set's shape: of the `image`, or rows of the `text`'s.

    Raises `BadSample` where it has none, or others.
    """
    values = sample.features(side)
    if values is None:
        # Cached features have what could not be read as it was: the cause is to be the same.
        if sample.features("image") is None:
            decode_image(sample.image())
        if sample.features("text") is None:
            sample.captions()
        raise BadSample("no features, which its data set has")
    if values.shape[side == "text" :] != shape:
        raise BadSample("features of another shape than the first sample's")
    return values
