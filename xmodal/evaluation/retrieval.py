"""Measuring a trained method on a shard set: every image against every caption, on all ranks."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from xmodal.data.batch import Fault
from xmodal.data.evaluation import EvaluationBatch, EvaluationSet, evaluation_batches
from xmodal.data.manifest import Manifest
from xmodal.data.reader import SampleReader
from xmodal.data.samples import hash_id
from xmodal.data.tokens import CaptionTokenizer
from xmodal.data.transforms import ImageTransform
from xmodal.distributed.collectives import gather, gather_objects, rank, world_size
from xmodal.errors import UserError
from xmodal.evaluation.config import EvaluationConfig
from xmodal.evaluation.ranking import Ranks, count_ranks
from xmodal.evaluation.recall import recall_metrics
from xmodal.methods.clip import Clip

Relevance = Mapping[str, Sequence[Sequence[str]]]
NAMED_FAULTS = 20  # samples left out that are named; the rest are counted


@dataclass
class Gallery:
    """All embeddings of a shard set, whole on every rank, in the manifest's order."""

    numbers: Tensor  # (images,) int64, the samples' numbers in the manifest
    image_ids: Tensor  # (images,) int64
    images: Tensor  # (images, …)
    owners: Tensor  # (texts,) int64, each caption's row in `images`
    texts: Tensor  # (texts, …)


@dataclass
class Retrieval:
    """What was retrieved, and how well."""

    gallery: Gallery
    true_pairs: Tensor  # (pairs, 2) int64, rows of images and texts that are right
    ranks: Ranks
    metrics: dict[str, float]
    faults: list[Fault]  # samples left out

    def fault_lines(self) -> list[str]:
        """Return what is to be said of the samples left out: the first ones by name."""
        lines = [f"bad sample, left out: {fault}" for fault in self.faults[:NAMED_FAULTS]]
        more = len(self.faults) - len(lines)
        return [*lines, f"and {more} more bad samples"] if more else lines


def evaluate_retrieval(
    method: Clip,
    dataset: EvaluationSet,
    relevance: Relevance | None,
    config: EvaluationConfig,
    *,
    protocol: str | None = None,
    device: torch.device,
    workers: int,
    max_bad_share: float,
) -> Retrieval:
    """Rank all images for every caption and all captions for every image.

    All captions count. By the protocol `all-captions` a caption is true of its own image (and of
    samples with the same image id); by `relevance` of every image that `relevance` lists, which is
    the default where it is given. All ranks call this, and all get the same result. Raises
    `UserError` when more than `max_bad_share` of the samples cannot be read.
    """
    protocol, url = protocol or default_protocol(relevance), dataset.reader.manifest.url
    if protocol == "relevance" and relevance is None:
        raise UserError(f"{url} has no relevance.json; use --protocol all-captions")
    gallery, faults = embed(method, dataset, config.batch_size, device=device, workers=workers)
    total = len(dataset.reader)
    missing = total - len(gallery.numbers)
    if missing > max_bad_share * total or not len(gallery.numbers):
        first = f", the first {faults[0]}" if faults else ""
        raise UserError(
            f"{missing} of {total} samples of {url} cannot be read{first}; run "
            f"`python -m shards check {url}`"
        )
    pairs = true_pairs(gallery, relevance if protocol == "relevance" else None)
    ranks = count_ranks(gallery.images, gallery.texts, pairs, method.score, config.tile)
    return Retrieval(gallery, pairs, ranks, recall_metrics(ranks, pairs, protocol), faults)


def default_protocol(relevance: Relevance | None) -> str:
    """Return the protocol that a shard set is measured by where none is asked for."""
    return "all-captions" if relevance is None else "relevance"


def evaluation_set(manifest: Manifest, size: int, tokenizer: CaptionTokenizer) -> EvaluationSet:
    """Return a shard set as evaluation reads it: central crops of `size`, every caption."""
    return EvaluationSet(SampleReader(manifest), ImageTransform(size), tokenizer)


@torch.no_grad()
def embed(
    method: Clip, dataset: EvaluationSet, batch_size: int, *, device: torch.device, workers: int
) -> tuple[Gallery, list[Fault]]:
    """Encode a shard set, each rank its part, and gather all embeddings on every rank."""
    training = [module for module in method.modules() if module.training]
    method.eval()
    parts: list[tuple[Tensor, ...]] = []
    faults: list[Fault] = []
    chunks = own_chunks(len(dataset.reader), batch_size)
    for batch in evaluation_batches(dataset, chunks, workers=workers):
        faults.extend(batch.faults)
        parts.append(_embed_batch(method, batch, device))
    for module in training:
        module.training = True
    columns = [gather(torch.cat(column)) for column in zip(*parts, strict=True)]
    numbers, image_ids, images, owner_numbers, texts = columns
    return Gallery(
        numbers, image_ids, images, torch.searchsorted(numbers, owner_numbers), texts
    ), gather_objects(faults)


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


def true_pairs(gallery: Gallery, relevance: Relevance | None) -> Tensor:
    """Return the (image, text) rows that are right, (pairs, 2) int64.

    Raises `UserError` when `relevance` does not fit the captions.
    """
    rows_of = defaultdict(list)
    for row, image_id in enumerate(gallery.image_ids.tolist()):
        rows_of[image_id].append(row)
    lists = None if relevance is None else {hash_id(k): v for k, v in relevance.items()}
    pairs: list[tuple[int, int]] = []
    seen: dict[int, int] = defaultdict(int)
    for text, owner in enumerate(gallery.owners.tolist()):
        image_id = int(gallery.image_ids[owner])
        true_ids = [image_id]
        if lists is not None:
            captions = lists.get(image_id, [])
            if seen[owner] >= len(captions):
                raise UserError("relevance.json does not list every caption; build the set again")
            true_ids = [hash_id(one) for one in captions[seen[owner]]]
            seen[owner] += 1
        pairs += [(row, text) for true_id in true_ids for row in rows_of[true_id]]
    return torch.tensor(pairs, dtype=torch.int64)


def _embed_batch(method: Clip, batch: EvaluationBatch, device: torch.device) -> tuple[Tensor, ...]:
    if not len(batch.numbers):
        raise UserError(f"{len(batch.faults)} samples in a row cannot be read, {batch.faults[0]}")
    images = method.encode(batch.images.to(device)).images
    texts = method.encode(batch.texts.to(device)).texts
    ids, numbers = batch.images.image_ids, batch.numbers
    assert images is not None
    assert texts is not None
    assert ids is not None
    return (
        numbers.to(device),
        ids.to(device),
        images,
        numbers[batch.owners].to(device),
        texts,
    )
