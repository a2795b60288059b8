"""Batches for evaluation: every sample once, with all its captions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from xmodal.data.batch import Batch, Fault
from xmodal.data.decode import BadSample, open_image
from xmodal.data.kind import Kind, features_of, kind_of
from xmodal.data.reader import SampleReader
from xmodal.data.samples import RawSample, hash_id
from xmodal.data.tokens import CaptionTokenizer
from xmodal.data.transforms import ImageTransform
from xmodal.errors import UserError


@dataclass
class EvaluationBatch:
    """Some samples of an evaluation set, images and all captions apart."""

    numbers: Tensor  # (images,) int64, the samples' numbers in the manifest
    images: Batch
    texts: Batch
    owners: Tensor  # (captions,) int64, each caption's row in `images`
    captions: list[str]
    labels: list[list[str]]  # the classes that each image is of
    faults: tuple[Fault, ...]


@dataclass
class _Pair:
    """One image and its captions; features stand in for either."""

    image: Tensor | None  # (3, size, size) uint8
    image_features: np.ndarray | None  # (features,)
    captions: list[str]
    text_features: np.ndarray | None  # (captions, features)
    image_id: int
    labels: list[str]


class EvaluationSet(Dataset[EvaluationBatch]):
    """Given samples of a manifest with the central crop and every caption."""

    def __init__(
        self, reader: SampleReader, transform: ImageTransform, tokenizer: CaptionTokenizer
    ) -> None:
        self.reader, self.transform, self.tokenizer = reader, transform, tokenizer

    def __getitem__(self, numbers: Sequence[int]) -> EvaluationBatch:
        read: dict[int, _Pair] = {}
        faults = []
        for number, sample in zip(numbers, self.reader.load(numbers), strict=True):
            try:
                read[number] = self._pair(sample)
            except BadSample as cause:
                faults.append(Fault(sample.shard, sample.key, str(cause)))
        pairs = list(read.values())
        both = self._batch(pairs) if pairs else Batch()
        images = Batch(
            images=both.images, image_features=both.image_features, image_ids=both.image_ids
        )
        texts = Batch(
            tokens=both.tokens, token_mask=both.token_mask, text_features=both.text_features
        )
        counts = torch.tensor([_num_texts(pair) for pair in pairs], dtype=torch.int64)
        return EvaluationBatch(
            torch.tensor(list(read), dtype=torch.int64),
            images,
            texts,
            torch.repeat_interleave(torch.arange(len(pairs)), counts),
            [caption for pair in pairs for caption in pair.captions],
            [pair.labels for pair in pairs],
            tuple(faults),
        )

    @cached_property
    def kind(self) -> Kind:
        """What the set's samples are like."""
        return kind_of(self.reader)

    def _pair(self, sample: RawSample) -> _Pair:
        image = image_features = text_features = None
        captions = list[str]()
        if self.kind.text is None or sample.record.get("captions"):
            captions = sample.captions()
        if self.kind.text is not None:
            text_features = features_of(sample, "text", self.kind.text)
            if captions and len(captions) != len(text_features):
                raise BadSample("text.npy has not a row for each caption")
        if self.kind.image is None:
            image = self.transform(open_image(sample.image()), np.random.default_rng(0))
        else:
            image_features = features_of(sample, "image", self.kind.image)
        return _Pair(
            image,
            image_features,
            captions,
            text_features,
            hash_id(sample.image_id),
            sample.labels(),
        )

    def _batch(self, pairs: Sequence[_Pair]) -> Batch:
        """Put pairs into a batch: a row an image, and a row a caption in the pairs' order."""
        batch = Batch(image_ids=torch.tensor([pair.image_id for pair in pairs], dtype=torch.int64))
        if self.kind.image is None:
            batch.images = torch.stack([pair.image for pair in pairs if pair.image is not None])
        else:
            features = [pair.image_features for pair in pairs if pair.image_features is not None]
            batch.image_features = torch.from_numpy(np.stack(features))
        if self.kind.text is None:
            captions = [caption for pair in pairs for caption in pair.captions]
            batch.tokens, batch.token_mask = self.tokenizer(captions)
        else:
            rows = [pair.text_features for pair in pairs if pair.text_features is not None]
            batch.text_features = torch.from_numpy(np.concatenate(rows))
        return batch


def evaluation_batches(
    dataset: EvaluationSet, chunks: Sequence[range], *, workers: int
) -> Iterator[EvaluationBatch]:
    """Yield the samples of each chunk in turn."""
    loader = DataLoader(
        _ErrorsAsItems(dataset),
        batch_size=None,
        sampler=chunks,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_one_thread if workers else None,
        multiprocessing_context="fork" if workers else None,
    )
    for item in loader:
        if isinstance(item, UserError):
            raise item
        yield item


class _ErrorsAsItems(Dataset[EvaluationBatch | UserError]):
    """Hands over a `UserError` as an item: raised in a worker it would arrive as a traceback."""

    def __init__(self, dataset: EvaluationSet) -> None:
        self.dataset = dataset

    def __getitem__(self, index: Sequence[int]) -> EvaluationBatch | UserError:
        try:
            return self.dataset[index]
        except UserError as error:
            return error


def _num_texts(pair: _Pair) -> int:
    return len(pair.captions if pair.text_features is None else pair.text_features)


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
