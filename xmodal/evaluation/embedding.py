"""Embedding of a shard set by a method: once, by all ranks, for every protocol."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from xmodal.activity import activity, tracked
from xmodal.data.batch import Batch, Fault
from xmodal.data.composed import ComposedSet
from xmodal.data.evaluation import Contrast, EvaluationBatch, EvaluationSet, evaluation_batches
from xmodal.data.reader import SampleReader
from xmodal.data.tokens import CaptionTokenizer
from xmodal.distributed.collectives import gather, gather_objects, rank, world_size
from xmodal.errors import UserError
from xmodal.evaluation.gallery import Gallery, Queries
from xmodal.methods.method import Method

T = TypeVar("T")


@contextmanager
def in_evaluation(method: Method) -> Iterator[None]:
    """Put a method into evaluation mode within the context, without gradients."""
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
    contrasts: list[Contrast] = []
    faults: list[Fault] = []
    for batch in own_batches(dataset, dataset.reader, batch_size, workers=workers):
        faults.extend(batch.faults)
        contrasts.extend(batch.contrasts)
        labels.extend(batch.labels)
        parts.append(_embed_batch(method, batch, device))
    with activity("waiting for the other ranks"):
        columns = [gather(torch.cat(column)) for column in zip(*parts, strict=True)]
    numbers, image_ids, digests, images, owner_numbers, texts, *rest = columns
    owners = torch.searchsorted(numbers, owner_numbers)
    gallery = Gallery(
        numbers,
        image_ids,
        images,
        owners,
        texts,
        gather_objects(labels),
        fused=rest[0] if rest else None,
        digests=digests,
        contrasts=gather_objects(contrasts, Contrast),
    )
    return gallery, gather_objects(faults, Fault)


def embed_queries(
    method: Method, dataset: ComposedSet, batch_size: int, *, device: torch.device, workers: int
) -> tuple[Queries, list[Fault]]:
    """Encode a set of queries, each rank its part, and gather all embeddings on every rank."""
    numbers, embeddings = [], []
    records: list[dict[str, Any]] = []
    faults: list[Fault] = []
    for batch in own_batches(dataset, dataset.reader, batch_size, workers=workers):
        check_any(batch.numbers, batch.faults)
        faults.extend(batch.faults)
        records.extend(batch.records)
        numbers.append(batch.numbers.to(device))
        embeddings.append(method.encode(batch.queries.to(device)).queries)
    with activity("waiting for the other ranks"):
        found = Queries(
            gather(torch.cat(numbers)), gather(torch.cat(embeddings)), gather_objects(records)
        )
    return found, gather_objects(faults, Fault)


def encode_images(method: Method, images: Batch) -> Tensor:
    """Return the embeddings of images as they are searched: of composed methods as targets."""
    if method.contents.composed:
        searched = Batch(targets=images.images, target_features=images.image_features)
        targets: Tensor = method.encode(searched).targets
        return targets
    found: Tensor = method.encode(images).images
    return found


def embed_captions(
    method: Method,
    captions: Sequence[str],
    tokenizer: CaptionTokenizer,
    batch_size: int,
    device: torch.device,
) -> Tensor:
    """Encode captions, each rank its part, and gather all embeddings, (captions, …)."""
    parts = []
    for chunk in tracked(own_chunks(len(captions), batch_size), "embedding captions: batch"):
        tokens, mask = tokenizer(captions[chunk.start : chunk.stop])
        parts.append(method.encode(Batch(tokens=tokens, token_mask=mask).to(device)).texts)
    with activity("waiting for the other ranks"):
        return gather(torch.cat(parts))


def class_prototypes(
    method: Method,
    names: Sequence[str],
    templates: Sequence[str],
    tokenizer: CaptionTokenizer,
    batch_size: int,
    device: torch.device,
) -> Tensor:
    """Return each class's embedding, (classes, …): the mean over all templates, of length 1.

    Of a method whose texts have several embeddings, the mean of each sense. Raises `UserError`
    where they are words, of which several captions have no mean.
    """
    if method.scores_sets and len(templates) > 1:
        raise UserError(
            f"{len(templates)} templates: {type(method).__name__} matches the words of a caption, "
            "and takes one template"
        )
    parts = []
    captions = [template.replace("{}", name) for name in names for template in templates]
    for start in tracked(range(0, len(captions), batch_size), "embedding names of classes: batch"):
        tokens, mask = tokenizer(captions[start : start + batch_size])
        batch = Batch(tokens=tokens, token_mask=mask)
        parts.append(method.encode(batch.to(device)).texts)
    texts = torch.cat(parts)
    of_classes = texts.view(len(names), len(templates), *texts.shape[1:])
    return F.normalize(of_classes.mean(1), dim=-1)


def own_batches(
    dataset: Dataset[T], reader: SampleReader, batch_size: int, *, workers: int
) -> Iterator[T]:
    """Yield the batches of this rank's part of a set, which `reader` reads, to be embedded."""
    chunks = own_chunks(len(reader), batch_size)
    with activity(f"embedding {reader.manifest.url}: sample", sum(map(len, chunks))) as samples:
        batches = evaluation_batches(dataset, chunks, workers=workers)
        for chunk in chunks:
            with activity("waiting for data"):
                batch = next(batches)
            yield batch
            samples.advance(len(chunk))


def own_chunks(total: int, batch_size: int) -> list[range]:
    """Return this rank's contiguous part of `total` samples, cut into batches.

    Every rank has equally many batches, because under ZeRO 3 each forward pass is a collective.
    """
    ranks = world_size()
    if total < ranks:
        raise UserError(
            f"{total} samples cannot be dealt to {ranks} ranks; use {total} ranks or fewer"
        )
    start, end = total * rank() // ranks, total * (rank() + 1) // ranks
    batches = min(-(-total // (ranks * batch_size)), total // ranks)
    bounds = [start + (end - start) * i // batches for i in range(batches + 1)]
    return [range(*bound) for bound in pairwise(bounds)]


def check_any(numbers: Tensor, faults: Sequence[Fault]) -> None:
    """Raise `UserError` for a batch of which no sample can be used."""
    if not len(numbers):
        raise UserError(
            f"{len(faults)} samples in a row cannot be read, {faults[0]}; run "
            "`python -m shards check` on the shards"
        )


def _embed_batch(
    method: Method, batch: EvaluationBatch, device: torch.device
) -> tuple[Tensor, ...]:
    check_any(batch.numbers, batch.faults)
    ids, numbers = batch.images.image_ids, batch.numbers
    assert ids is not None
    images, texts, *fused = _encode(method, batch, device)
    owners = numbers[batch.owners[: len(texts)]]
    known = (one.to(device) for one in (numbers, ids, batch.digests))
    return *known, images, owners.to(device), texts, *fused


def _encode(method: Method, batch: EvaluationBatch, device: torch.device) -> tuple[Tensor, ...]:
    """Return images and texts, and images with their texts where the method makes such."""
    images = batch.images.to(device)
    if method.contents.composed:
        targets = encode_images(method, images)
        return targets, targets[:0]
    if method.contents.views == 1:
        found = method.encode(images).images
        has_texts = len(batch.owners) > 0
        return found, method.encode(batch.texts.to(device)).texts if has_texts else found[:0]
    found = method.encode(_with_first_captions(images, batch, device))
    none = found.images[:0]
    return (found.images, none) if found.fused is None else (found.images, none, found.fused)


def _with_first_captions(images: Batch, batch: EvaluationBatch, device: torch.device) -> Batch:
    if not len(batch.owners):
        return images
    first = torch.searchsorted(batch.owners, torch.arange(len(batch.numbers)))
    return images.with_texts(batch.texts.rows(first).to(device))
