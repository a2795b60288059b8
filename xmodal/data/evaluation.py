"""Batches for evaluation: every sample once, with all its captions."""

import hashlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from xmodal.data.batch import Batch, Fault
from xmodal.data.decode import BadSample, open_image
from xmodal.data.fields import id_of
from xmodal.data.forked import fork_context
from xmodal.data.reader import SampleReader
from xmodal.data.sample_spec import SampleSpec, features_of, infer_sample_spec, parts_dropped
from xmodal.data.samples import RawSample, hash_id
from xmodal.data.tokens import CaptionTokenizer
from xmodal.data.transforms import ImageTransform
from xmodal.errors import UserError

T = TypeVar("T")


@dataclass
class Contrast:
    """A caption of an image, and captions that are false of it."""

    number: int  # of the sample in the manifest
    place: int  # of the caption among those of the sample
    caption: str
    false: list[str]
    category: str | None  # what the false captions are false in
    group: str | None  # samples that are judged together


@dataclass
class EvaluationBatch:
    """Samples of an evaluation set: images, and separately all captions."""

    numbers: Tensor  # (images,) int64, the samples' numbers in the manifest
    images: Batch
    texts: Batch
    owners: Tensor  # (captions,) int64, each caption's row in `images`
    captions: list[str]  # "" where features have none
    labels: list[list[str]]  # the classes that each image is of
    records: list[Any]  # of each image, as the set's `describe` returns it
    contrasts: list[Contrast]
    digests: Tensor  # (images,) int64, equal for images of equal files
    faults: tuple[Fault, ...]


@dataclass
class _Pair:
    """One image and its captions."""

    image: Tensor  # as `read_image` returns it
    captions: list[str]
    text_features: np.ndarray | None  # (captions, …)
    image_id: int
    labels: list[str]
    record: Any
    contrasts: list[Contrast]  # numbered later
    digest: int  # of the file that the image is read from


class EvaluationSet(Dataset[EvaluationBatch]):
    """Selected samples of a manifest with the central crop and, if `captions`, every caption.

    `describe` returns what else of a sample is wanted, or raises `BadSample`.
    """

    def __init__(
        self,
        reader: SampleReader,
        transform: ImageTransform,
        tokenizer: CaptionTokenizer,
        *,
        captions: bool = True,
        describe: Callable[[RawSample], Any] = lambda _: None,
    ) -> None:
        self.reader, self.transform, self.tokenizer = reader, transform, tokenizer
        self.captions, self.describe = captions, describe

    def __getitem__(self, numbers: Sequence[int]) -> EvaluationBatch:
        read, faults = read_each(self.reader, numbers, self._pair)
        pairs = list(read.values())
        images, texts = Batch(), Batch()
        captions = [caption for pair in pairs for caption in pair.captions]
        if pairs:
            images = image_batch([pair.image for pair in pairs], self.kind)
            images.image_ids = torch.tensor([pair.image_id for pair in pairs], dtype=torch.int64)
        if pairs and self.captions:
            features = [pair.text_features for pair in pairs if pair.text_features is not None]
            texts = text_batch(captions, features, self.tokenizer)
        counts = torch.tensor([len(pair.captions) for pair in pairs], dtype=torch.int64)
        return EvaluationBatch(
            torch.tensor(list(read), dtype=torch.int64),
            images,
            texts,
            torch.repeat_interleave(torch.arange(len(pairs)), counts),
            captions,
            [pair.labels for pair in pairs],
            [pair.record for pair in pairs],
            [replace(one, number=n) for n, pair in read.items() for one in pair.contrasts],
            torch.tensor([pair.digest for pair in pairs], dtype=torch.int64),
            faults,
        )

    @cached_property
    def kind(self) -> SampleSpec:
        """Specification of the set's samples."""
        return infer_sample_spec(self.reader, captions=int(self.captions))

    def _pair(self, sample: RawSample) -> _Pair:
        text_features = None
        captions = list[str]()
        if self.kind.text is not None:
            text_features = features_of(sample, "text", self.kind.text)
            captions = sample.said().kept or [""] * len(text_features)
        elif self.captions:
            captions = sample.captions()
        return _Pair(
            read_image(sample, "image", self.kind, self.transform),
            captions,
            text_features,
            hash_id(sample.image_id),
            sample.labels(),
            self.describe(sample),
            _contrasts(sample) if self.captions else [],
            _digest(sample.image() if self.kind.image is None else sample.read("image.npy")),
        )


def _contrasts(sample: RawSample) -> list[Contrast]:
    false_captions = sample.false_captions()
    if not any(false_captions):
        return []
    names = (id_of(sample.record.get(name), name) for name in ("category", "group"))
    category, group = names
    return [
        Contrast(0, place, caption, false, category, group)
        for place, (caption, false) in enumerate(
            zip(sample.said().kept, false_captions, strict=True)
        )
        if false
    ]


def read_each(
    reader: SampleReader, numbers: Sequence[int], use: Callable[[RawSample], T]
) -> tuple[dict[int, T], tuple[Fault, ...]]:
    """Return the results of `use` for samples, by their numbers, and the faults of others."""
    made: dict[int, T] = {}
    faults: list[Fault] = []
    for number, sample in zip(numbers, reader.load(numbers), strict=True):
        try:
            made[number] = use(sample)
            faults += parts_dropped(sample)
        except BadSample as cause:
            faults.append(Fault(sample.shard, sample.key, str(cause)))
    return made, tuple(faults)


def read_image(sample: RawSample, role: str, kind: SampleSpec, transform: ImageTransform) -> Tensor:
    """Return an image, (3, size, size) uint8, or its features (…)."""
    if kind.image is None:
        return transform(open_image(sample.image(role)), np.random.default_rng(0))
    return torch.tensor(features_of(sample, role, kind.image))


def image_batch(images: Sequence[Tensor], kind: SampleSpec) -> Batch:
    """Return a batch of images that `read_image` returned, one at least."""
    stacked = torch.stack(list(images))
    return Batch(images=stacked) if kind.image is None else Batch(image_features=stacked)


def text_batch(
    captions: Sequence[str], features: Sequence[np.ndarray], tokenizer: CaptionTokenizer
) -> Batch:
    """Return a batch of captions, or of the rows of `features`, (captions, …) each, if any."""
    if features:
        return Batch(text_features=torch.from_numpy(np.concatenate(features)))
    tokens, mask = tokenizer(captions)
    return Batch(tokens=tokens, token_mask=mask)


def evaluation_batches(
    dataset: Dataset[T], chunks: Sequence[range], *, workers: int
) -> Iterator[T]:
    """Yield the samples of each chunk in turn, loaded by no more processes than there are cores."""
    workers = min(workers, len(os.sched_getaffinity(0)))
    loader = DataLoader(
        _ErrorsAsItems(dataset),
        batch_size=None,
        sampler=chunks,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_begin_worker if workers else None,
        multiprocessing_context=fork_context() if workers else None,
    )
    for item in loader:
        if isinstance(item, UserError):
            raise item
        yield item


class _ErrorsAsItems(Dataset[T | UserError]):
    """Yields a `UserError` as an item: raised in a worker it would become a traceback."""

    def __init__(self, dataset: Dataset[T]) -> None:
        self.dataset = dataset

    def __getitem__(self, index: Sequence[int]) -> T | UserError:
        try:
            return self.dataset[index]
        except UserError as error:
            return error


def _digest(data: bytes) -> int:
    """Return an int64 that is the same for the same bytes."""
    digest = hashlib.blake2b(data, digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _begin_worker(_: int) -> None:
    torch.set_num_threads(1)
    # Launchers and schedulers send them to every process of a job: the main process handles them.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
