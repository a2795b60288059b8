"""Batches for training, in the plan's order, and for evaluation, every sample with all captions."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from xmodal.data.batch import Batch, Fault
from xmodal.data.decode import BadSample, open_image
from xmodal.data.manifest import Manifest
from xmodal.data.plan import Plan, rank_positions
from xmodal.data.samples import SampleReader, hash_id
from xmodal.data.tokens import CaptionTokenizer
from xmodal.data.transforms import ImageTransform
from xmodal.errors import UserError

REACH = 8  # samples on either side that may take an unreadable sample's place


@dataclass
class Pair:
    """One image and captions of it, before batching; features stand in where they are cached."""

    image: Tensor | None  # (3, size, size) uint8
    image_features: Tensor | None  # (features,)
    captions: list[str]
    text_features: Tensor | None  # (captions, features)
    image_id: int


class PairReader:
    """Reads and decodes samples: the image as the transform wants it, and all captions."""

    def __init__(self, manifest: Manifest, transform: ImageTransform) -> None:
        self.url = manifest.url
        self.samples = SampleReader(manifest)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, number: int, random: np.random.Generator) -> Pair:
        """Return sample `number`; raises `BadSample`."""
        captions, image_id = self.samples.captions(number)
        image_features = self.samples.features(number, "image")
        text_features = self.samples.features(number, "text")
        image = None
        if image_features is None:
            image = self.transform(open_image(self.samples.image(number)), random)
        return Pair(
            image,
            None if image_features is None else torch.from_numpy(image_features),
            captions,
            None if text_features is None else torch.from_numpy(text_features),
            hash_id(image_id),
        )

    def fault(self, number: int, cause: BadSample) -> Fault:
        """Return the report of an unreadable sample."""
        shard, sample = self.samples.locate(number)
        return Fault(shard.url, sample.key, str(cause))


class TrainingSet(Dataset[Batch]):
    """The batch at given positions of the plan, one caption of each image drawn.

    What is random for a sample is drawn from (seed, position) alone, never from a worker or rank.
    """

    def __init__(
        self, pairs: PairReader, plan: Plan, tokenizer: CaptionTokenizer, seed: int
    ) -> None:
        self.pairs, self.plan, self.tokenizer, self.seed = pairs, plan, tokenizer, seed

    def __getitem__(self, positions: Sequence[int]) -> Batch:
        faults: list[Fault] = []
        pairs = [self._pair(position, faults) for position in positions]
        batch = collate(pairs, self.tokenizer)
        batch.faults = tuple(faults)
        return batch

    def _pair(self, position: int, faults: list[Fault]) -> Pair:
        random = np.random.default_rng([self.seed, position])
        places = [position, *self.plan.neighbours(position, REACH)]
        for place in places:
            number = self.plan.sample_at(place)
            try:
                pair = self.pairs.read(number, random)
            except BadSample as cause:
                if place == position:
                    faults.append(self.pairs.fault(number, cause))
                continue
            drawn = int(random.integers(len(pair.captions)))
            pair.captions = [pair.captions[drawn]]
            if pair.text_features is not None:
                pair.text_features = pair.text_features[drawn : drawn + 1]
            return pair
        raise UserError(
            f"{faults[-1]}; and none of its {len(places) - 1} neighbours can be read either; "
            "run `python -m shards check` on the shards"
        )


@dataclass
class EvaluationBatch:
    """Some samples of an evaluation set, images and all captions apart."""

    numbers: Tensor  # (images,) int64, the samples' numbers in the manifest
    images: Batch
    texts: Batch
    owners: Tensor  # (captions,) int64, each caption's row in `images`
    captions: list[str]
    faults: tuple[Fault, ...]


class EvaluationSet(Dataset[EvaluationBatch]):
    """Given samples of a manifest with the central crop and every caption."""

    def __init__(self, pairs: PairReader, tokenizer: CaptionTokenizer) -> None:
        self.pairs, self.tokenizer = pairs, tokenizer

    def __getitem__(self, numbers: Sequence[int]) -> EvaluationBatch:
        read: dict[int, Pair] = {}
        faults = []
        for number in numbers:
            try:
                read[number] = self.pairs.read(number, np.random.default_rng(0))
            except BadSample as cause:
                faults.append(self.pairs.fault(number, cause))
        pairs = list(read.values())
        both = collate(pairs, self.tokenizer) if pairs else Batch()
        images = Batch(
            images=both.images, image_features=both.image_features, image_ids=both.image_ids
        )
        texts = Batch(
            tokens=both.tokens, token_mask=both.token_mask, text_features=both.text_features
        )
        counts = torch.tensor([len(pair.captions) for pair in pairs], dtype=torch.int64)
        owners = torch.repeat_interleave(torch.arange(len(pairs)), counts)
        captions = [caption for pair in pairs for caption in pair.captions]
        return EvaluationBatch(
            torch.tensor(list(read), dtype=torch.int64),
            images,
            texts,
            owners,
            captions,
            tuple(faults),
        )


def collate(pairs: Sequence[Pair], tokenizer: CaptionTokenizer) -> Batch:
    """Put pairs into a batch: a row an image, and a row a caption (in the pairs' order)."""
    batch = Batch(image_ids=torch.tensor([pair.image_id for pair in pairs], dtype=torch.int64))
    if pairs[0].image_features is None:
        batch.images = torch.stack([pair.image for pair in pairs if pair.image is not None])
    else:
        batch.image_features = torch.stack(
            [pair.image_features for pair in pairs if pair.image_features is not None]
        )
    if pairs[0].text_features is None:
        captions = [caption for pair in pairs for caption in pair.captions]
        batch.tokens, batch.token_mask = tokenizer(captions)
    else:
        batch.text_features = torch.cat(
            [pair.text_features for pair in pairs if pair.text_features is not None]
        )
    return batch


def training_batches(
    dataset: TrainingSet,
    steps: Iterable[int],
    *,
    batch_size: int,
    rank: int,
    ranks: int,
    workers: int,
) -> Iterator[Batch]:
    """Yield this rank's part of the global batches `steps`: (batch_size / ranks) pairs each."""
    positions = (
        rank_positions(step, batch_size=batch_size, rank=rank, ranks=ranks) for step in steps
    )
    return _load(dataset, positions, workers)


def evaluation_batches(
    dataset: EvaluationSet, chunks: Sequence[range], *, workers: int
) -> Iterator[EvaluationBatch]:
    """Yield the samples of each chunk in turn."""
    return _load(dataset, chunks, workers)


class _ErrorsAsItems(Dataset[Any]):
    """Hands over a `UserError` as an item: raised in a worker it would arrive as a traceback."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, index: Sequence[int]) -> Any:
        try:
            return self.dataset[index]
        except UserError as error:
            return error


def _load(dataset: Dataset[Any], indices: Iterable[Sequence[int]], workers: int) -> Iterator[Any]:
    loader = DataLoader(
        _ErrorsAsItems(dataset),
        batch_size=None,
        sampler=indices,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if workers else None,
        worker_init_fn=_one_thread if workers else None,
        multiprocessing_context="fork" if workers else None,
    )
    for item in loader:
        if isinstance(item, UserError):
            raise item
        yield item


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
