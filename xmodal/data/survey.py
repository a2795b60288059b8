"""Survey of some samples of a shard set: are ids, images and captions distinct?"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np

from xmodal.data.decode import BadSample
from xmodal.data.reader import SampleReader
from xmodal.data.samples import IMAGES, RawSample
from xmodal.data.tokens import CaptionTokenizer, TokenCounts
from xmodal.data.training_set import DataSet

MAX_SAMPLES = 512
MAX_BYTES = 64 << 20  # after which no more are read
_NEIGHBOURS = 16  # samples next to each other that are read together: duplicates often are


@dataclass(frozen=True)
class Survey:
    """Counts over some samples of a shard set.

    `samples` is the number of usable samples read, `ids` counts their image ids.
    """

    url: str
    samples: int
    ids: int
    twins: int  # samples whose image has the bytes of another's, under another id
    chance_of_same_caption: float  # of two samples of different ids, to have a caption in common
    tokens: TokenCounts  # over all captions
    labels: int = 0  # different ones, of each sample the first


def survey(data_set: DataSet, tokenizer: CaptionTokenizer, *, captions: bool) -> Survey:
    """Read at most `MAX_SAMPLES` samples, spread over a set of pairs.

    Unusable samples do not count. Captions are those that are drawn; they are not read without
    `captions`, nor from samples with text features.
    """
    ids: list[str] = []
    texts: list[list[str]] = []
    labels = set[str]()
    ids_of_image = defaultdict[bytes, list[str]](list)
    for sample in _spread(data_set.reader):
        try:
            image = sample.read(*IMAGES["image"])
            said = _captions(sample, data_set) if captions else []
            first = sample.labels()[:1]
            ids.append(sample.image_id)
        except BadSample:
            continue  # counted and named when training meets it
        texts.append(said)
        labels.update(first)
        if image is not None:
            ids_of_image[hashlib.blake2b(image, digest_size=16).digest()].append(ids[-1])
    return Survey(
        data_set.reader.manifest.url,
        len(ids),
        len(set(ids)),
        sum(len(same) for same in ids_of_image.values() if len(set(same)) > 1),
        _chance_of_same(ids, texts),
        tokenizer.count([caption for said in texts for caption in said]),
        len(labels),
    )


def _spread(reader: SampleReader) -> Iterator[RawSample]:
    stride = max(1, len(reader) // MAX_SAMPLES)
    firsts = np.arange(0, len(reader), _NEIGHBOURS * stride)
    num_bytes = 0
    # In any order, so that those that are read before the limit are from all over the set.
    for first in np.random.default_rng(0).permutation(firsts).tolist():
        samples = reader.load(range(first, min(first + _NEIGHBOURS, len(reader))))
        yield from samples
        num_bytes += sum(len(data or b"") for one in samples for data in one.files.values())
        if num_bytes > MAX_BYTES:
            return


def _captions(sample: RawSample, data_set: DataSet) -> list[str]:
    if sample.read("text.npy") is not None:
        return []
    return list(chain(*sample.drawable(data_set.texts, data_set.templates).values()))


def _chance_of_same(ids: Sequence[str], texts: Sequence[Sequence[str]]) -> float:
    owners = defaultdict[str, list[int]](list)
    for number, captions in enumerate(texts):
        for caption in set(captions):
            owners[caption].append(number)
    same = {
        pair
        for numbers in owners.values()
        for pair in combinations(numbers, 2)
        if ids[pair[0]] != ids[pair[1]]
    }
    pairs = _num_pairs(len(ids)) - sum(map(_num_pairs, Counter(ids).values()))
    return len(same) / pairs if pairs else 0.0


def _num_pairs(count: int) -> int:
    return count * (count - 1) // 2
