"""Training sets of small shards, what their batches hold, and storages that watch or fail."""

import dataclasses
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from tests.shard_sets import number_of
from xmodal.data.batch import PAIRS, Batch, BatchSpec
from xmodal.data.config import NegativesConfig
from xmodal.data.length_buckets import LengthBuckets
from xmodal.data.loader import TrainingLoader
from xmodal.data.manifest import Manifest
from xmodal.data.mixture import Mixture
from xmodal.data.reader import SampleReader
from xmodal.data.storage.local import LocalStorage
from xmodal.data.text_lengths import TextLengths
from xmodal.data.tokenizers.byte_pair import train_tokenizer
from xmodal.data.tokens import CaptionTokenizer
from xmodal.data.training_set import DataSet, TrainingSet
from xmodal.data.transforms import ImageTransform

BATCH, LANES, WINDOW, SEED = 12, 6, 4, 3
TOKENIZER = train_tokenizer([f"{number} {number}" for number in range(100)], 12, vocabulary=300)


def mixture_of(
    *manifests: Manifest,
    weights: Sequence[float] = (),
    lanes: int = LANES,
    window: int = WINDOW,
    buckets: LengthBuckets | None = None,
) -> Mixture:
    sizes = [[shard.num_samples for shard in one.shards] for one in manifests]
    return Mixture(
        sizes,
        weights or [1] * len(sizes),
        seed=SEED,
        lanes=lanes,
        window=window,
        sample_weights=[one.sample_weights for one in manifests],
        buckets=buckets,
    )


def training_set(
    *manifests: Manifest,
    weights: Sequence[float] = (),
    lanes: int = LANES,
    window: int = WINDOW,
    seed: int = SEED,
    contents: BatchSpec = PAIRS,
    text_dropout: float = 0.0,
    positives: str = "image",
    options: Sequence[Mapping[str, object]] = (),
    tokenizer: CaptionTokenizer = TOKENIZER,
    negatives: NegativesConfig | None = None,
    bucketed: int | None = None,
    **transform: object,
) -> TrainingSet:
    """Mixed data sets; `options` has what a `DataSet` is given beside its reader.

    Global batches of `bucketed` samples, if given, have texts of like length.
    """
    sets = [
        DataSet(SampleReader(one), **given)
        for one, given in zip(manifests, options or [{}] * len(manifests), strict=True)
    ]
    mixture = mixture_of(
        *manifests,
        weights=weights,
        lanes=lanes,
        window=window,
        buckets=bucketed
        and LengthBuckets(
            [TextLengths(one.reader.manifest, one.texts, one.templates) for one in sets],
            seed=seed,
            batch_size=bucketed,
        ),
    )
    image = ImageTransform(8, **transform)
    return TrainingSet(
        sets,
        mixture,
        image,
        tokenizer,
        seed=seed,
        contents=contents,
        negatives=negatives,
        text_dropout=text_dropout,
        positives=positives,
    )


def loader_of(
    dataset: TrainingSet, steps: range, *, size: int = BATCH, rank: int = 0, ranks: int = 1,
    workers: int = 0,
) -> TrainingLoader:  # fmt: skip
    return TrainingLoader(dataset, steps, batch_size=size, rank=rank, ranks=ranks, workers=workers)


def batches(dataset: TrainingSet, steps: range, **options: int) -> list[Batch]:
    """The batches of a rank, each in memory of its own."""
    return [kept(batch) for batch in loader_of(dataset, steps, **options)]


def kept(batch: Batch) -> Batch:
    """A batch that holds when its slot is used again."""
    values = {k: v.clone() for k, v in vars(batch).items() if isinstance(v, Tensor)}
    return dataclasses.replace(batch, **values)


def assert_same(one: Batch, other: Batch) -> None:
    """Bit by bit, faults and all but the storage's warnings."""
    for field in dataclasses.fields(Batch):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert a.equal(b) if isinstance(a, Tensor) else a == b, field.name


def captions_of(batch: Batch, tokenizer: CaptionTokenizer = TOKENIZER) -> list[str]:
    return [text.strip() for text in tokenizer.tokenizer.decode_batch(batch.tokens.tolist())]


def numbers_of(batch: Batch) -> list[int]:
    """The numbers of plain images."""
    return [number_of(image) for image in batch.images]


def npy(values: object, **options: object) -> bytes:
    """An array's file."""
    buffer = io.BytesIO()
    np.save(buffer, values, **options)
    return buffer.getvalue()


@dataclasses.dataclass(frozen=True)
class Read:
    """A read that a process has made."""

    process: int
    url: str
    start: int
    stop: int


class WatchedStorage(LocalStorage):
    """Notes what is read from tars in a file that processes share; `before` is called first.

    What is told to be read soon is noted in `told`, of this process alone.
    """

    def __init__(
        self, log: Path, before: Callable[[str], None] = lambda _: None, *, far: bool = False
    ) -> None:
        super().__init__()
        self.log, self.before, self.far = log, before, far
        self.told: list[Read] = []
        self.indices: list[str] = []
        log.touch()

    def read(self, url: str, start: int = 0, stop: int | None = None) -> bytes:
        if url.endswith(".tar"):
            line = f"{os.getpid()} {start} {stop} {url}\n"
            descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND)
            os.write(descriptor, line.encode())
            os.close(descriptor)
            self.before(url)
        else:
            self.indices.append(url)
        return super().read(url, start, stop)

    def will_read(self, url: str, start: int, stop: int) -> None:
        self.told.append(Read(os.getpid(), url, start, stop))
        super().will_read(url, start, stop)

    def reads(self) -> list[Read]:
        lines = [line.split(" ", 3) for line in self.log.read_text().splitlines()]
        return [Read(int(pid), url, int(start), int(stop)) for pid, start, stop, url in lines]


def watched(
    manifest: Manifest,
    log: Path,
    before: Callable[[str], None] = lambda _: None,
    *,
    far: bool = False,
) -> Manifest:
    """The manifest with a storage that notes what is read from its tars."""
    return dataclasses.replace(manifest, storage=WatchedStorage(log, before, far=far))


def samples_in(manifest: Manifest, reads: Iterable[Read]) -> list[int]:
    """The numbers of samples of which the reads hold every file, once a read."""
    found, first = [], 0
    reads = list(reads)
    for shard in manifest.shards:
        for number, sample in enumerate(manifest.index(shard), start=first):
            start = min(offset for offset, _ in sample.members.values())
            stop = max(offset + size for offset, size in sample.members.values())
            found += [
                number
                for read in reads
                if read.url == shard.url and read.start <= start and stop <= read.stop
            ]
        first += shard.num_samples
    return found
