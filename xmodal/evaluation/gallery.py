"""All embeddings of a shard set: encoded once, by all ranks, for every protocol."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from xmodal.data.batch import Fault
from xmodal.data.evaluation import EvaluationBatch, EvaluationSet, evaluation_batches
from xmodal.distributed.collectives import gather, gather_objects, rank, world_size
from xmodal.errors import UserError
from xmodal.methods.method import Method


@dataclass
class Gallery:
    """All embeddings of a shard set, whole on every rank, in the manifest's order."""

    numbers: Tensor  # (images,) int64, the samples' numbers in the manifest
    image_ids: Tensor  # (images,) int64
    images: Tensor  # (images, …)
    owners: Tensor  # (texts,) int64, each caption's row in `images`
    texts: Tensor  # (texts, …)
    labels: list[list[str]]  # of each image; a text has those of its image

    def caption_numbers(self) -> Tensor:
        """Return which of its image's captions each text is, from 0: (texts,) int64."""
        texts = torch.arange(len(self.owners), device=self.owners.device)
        return texts - torch.searchsorted(self.owners, self.owners)

    def first_captions(self, count: int) -> "Gallery":
        """Return the same images with no more than their first `count` captions."""
        kept = self.caption_numbers() < count
        return replace(self, owners=self.owners[kept], texts=self.texts[kept])

    def part(self, start: int, stop: int) -> "Gallery":
        """Return the images from `start` to before `stop`, with their captions."""
        inside = (self.owners >= start) & (self.owners < stop)
        return Gallery(
            self.numbers[start:stop],
            self.image_ids[start:stop],
            self.images[start:stop],
            self.owners[inside] - start,
            self.texts[inside],
            self.labels[start:stop],
        )


@contextmanager
def in_evaluation(method: Method) -> Iterator[None]:
    """Have a method encode and score as it does when it is not trained, without gradients."""
    training = [module for module in method.modules() if module.training]
    method.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def embed(
    method: Method, dataset: EvaluationSet, batch_size: int, *, device: torch.device, workers: int
) -> tuple[Gallery, list[Fault]]:
    """Encode a shard set, each rank its part, and gather all embeddings on every rank."""
    parts: list[tuple[Tensor, ...]] = []
    labels: list[list[str]] = []
    faults: list[Fault] = []
    chunks = own_chunks(len(dataset.reader), batch_size)
    for batch in evaluation_batches(dataset, chunks, workers=workers):
        faults.extend(batch.faults)
        labels.extend(batch.labels)
        parts.append(_embed_batch(method, batch, device))
    columns = [gather(torch.cat(column)) for column in zip(*parts, strict=True)]
    numbers, image_ids, images, owner_numbers, texts = columns
    owners = torch.searchsorted(numbers, owner_numbers)
    gallery = Gallery(numbers, image_ids, images, owners, texts, gather_objects(labels))
    return gallery, gather_objects(faults)


def own_chunks(total: int, batch_size: int) -> list[range]:
    """Return this rank's contiguous part of `total` samples, cut into batches.

    Every rank has equally many batches, because under ZeRO 3 each forward pass is a collective.
    """
    ranks = world_size()
    if total < ranks:
        raise UserError(f"{total} samples cannot be dealt to {ranks} ranks; evaluate on fewer")
    start, end = total * rank() // ranks, total * (rank() + 1) // ranks
    batches = min(-(-total // (ranks * batch_size)), total // ranks)
    bounds = [start + (end - start) * i // batches for i in range(batches + 1)]
    return [range(*bound) for bound in pairwise(bounds)]


def _embed_batch(
    method: Method, batch: EvaluationBatch, device: torch.device
) -> tuple[Tensor, ...]:
    if not len(batch.numbers):
        raise UserError(f"{len(batch.faults)} samples in a row cannot be read, {batch.faults[0]}")
    images = method.encode(batch.images.to(device)).images
    texts = method.encode(batch.texts.to(device)).texts
    ids, numbers = batch.images.image_ids, batch.numbers
    assert ids is not None
    return (
        numbers.to(device),
        ids.to(device),
        images,
        numbers[batch.owners].to(device),
        texts,
    )
