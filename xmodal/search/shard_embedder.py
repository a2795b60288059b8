"""Embedding of whole shards into the parts of a folder."""

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from xmodal.activity import activity
from xmodal.data.batch import Fault
from xmodal.data.composed import ComposedBatch, ComposedSet
from xmodal.data.evaluation import EvaluationBatch, EvaluationSet, evaluation_batches
from xmodal.data.manifest import Shard
from xmodal.errors import UnfinishedError, UserError
from xmodal.evaluation.embedding import encode_images, in_evaluation
from xmodal.methods.method import Method
from xmodal.search.embeddings import EmbeddingsInfo, Side
from xmodal.search.output_folder import OutputFolder
from xmodal.search.part_files import PartSummary, PartWriter, write_part

EmbeddingSet = EvaluationSet | ComposedSet
INTERRUPTED = "Interrupted. Rerun the same command to resume."
PROBED = 64  # samples of a set, one of which must be usable


def deal(sizes: Mapping[int, int], ranks: int) -> list[list[int]]:
    """Return the shards of each rank: the largest first, each to the rank that has least.

    `sizes` are the shards' bytes by number.
    """
    dealt: list[list[int]] = [[] for _ in range(ranks)]
    loads = [(0, rank) for rank in range(ranks)]
    for number in sorted(sizes, key=lambda one: (-sizes[one], one)):
        load, rank = loads[0]
        dealt[rank].append(number)
        heapq.heapreplace(loads, (load + sizes[number], rank))
    return dealt


def embedding_shape(method: Method, dataset: EmbeddingSet, device: torch.device) -> tuple[int, int]:
    """Return K, embeddings an item, and dim: those of the first usable sample.

    Raises `UserError` if none of the first samples can be used.
    """
    for number in range(min(PROBED, len(dataset.reader))):
        batch = dataset[[number]]
        if batch.records:
            vectors = next(iter(encode_batch(method, batch, device).values()))
            return (1 if vectors.ndim == 2 else vectors.shape[1]), vectors.shape[-1]
    url = dataset.reader.manifest.url
    raise UserError(f"none of the first samples of {url} can be used; the last {batch.faults[0]}")


def encode_batch(
    method: Method, batch: EvaluationBatch | ComposedBatch, device: torch.device
) -> dict[Side, Tensor]:
    """Return the embeddings (items, dim) or (items, K, dim) of each side that a batch has."""
    found: dict[Side, Tensor] = {}
    with in_evaluation(method):
        if isinstance(batch, ComposedBatch):
            if batch.records:
                found["queries"] = method.encode(batch.queries.to(device)).queries
            if len(batch.owners):
                found["images"] = encode_images(method, batch.targets.to(device))
        else:
            if batch.records:
                found["images"] = encode_images(method, batch.images.to(device))
            if len(batch.owners):
                found["texts"] = method.encode(batch.texts.to(device)).texts
    return {side: embeddings.float().cpu() for side, embeddings in found.items()}


def batch_records(
    batch: EvaluationBatch | ComposedBatch, first: int, row: int
) -> dict[Side, list[dict[str, Any]]]:
    """Return the records of the rows of each side of a batch.

    `first` is the number of its shard's first sample, `row` that of its first image in the part.
    """
    numbers = [{"number": number - first} for number in batch.numbers.tolist()]
    records = [one | number for one, number in zip(batch.records, numbers, strict=True)]
    owners = batch.owners.tolist()
    if isinstance(batch, ComposedBatch):
        places = {owner: row + at for at, owner in enumerate(owners)}
        queries = [one | {"row": places.get(at)} for at, one in enumerate(records)]
        targets = [records[owner]["target"] | numbers[owner] for owner in owners]
        return {"queries": queries, "images": targets}
    said = zip(owners, batch.captions, strict=True)
    texts = [{"row": row + owner, "caption": caption or None} for owner, caption in said]
    return {"images": records, "texts": texts}


@dataclass
class FaultLog:
    """Counts the bad samples of a rank: names the first ones, and ends where they are too many."""

    say: Callable[[str], None]
    max_bad_share: float
    named: int  # how many
    seen: int = 0
    bad: int = 0
    _parts: int = field(default=0, repr=False)

    def count(self, faults: Sequence[Fault], samples: int) -> None:
        """Count the faults of so many samples; raise `UserError` where they are too many."""
        self.seen += samples
        for fault in faults:
            if fault.partial:
                self._parts += 1
                self._name(self._parts, "part of a sample, dropped", fault)
            else:
                self.bad += 1
                self._name(self.bad, "bad sample, skipped", fault)
                check_share(self.bad, self.seen, self.max_bad_share, f", the last {fault}")

    def _name(self, number: int, what: str, fault: Fault) -> None:
        if number <= self.named:
            self.say(f"{what}: {fault}")
        if number == self.named:
            self.say("further ones are counted, and named in faults/")


def check_share(bad: int, seen: int, max_bad_share: float, which: str) -> None:
    """Raise `UserError` where too large a share of samples is bad; of few samples, a few may be."""
    if bad > max_bad_share * max(seen, 1000):
        raise UserError(
            f"{bad:,} of {seen:,} samples cannot be read{which}; run `python -m shards check` on "
            "the shards or raise --max-bad-share"
        )


@dataclass(frozen=True)
class ShardEmbedder:
    """Embeds whole shards, whose rows do not depend on other shards or ranks.

    Where `interrupted` returns True it raises `UnfinishedError`, and the part is not there.
    """

    method: Method
    dataset: EmbeddingSet
    info: EmbeddingsInfo
    folder: OutputFolder
    faults: FaultLog
    batch_size: int
    device: torch.device
    workers: int
    interrupted: Callable[[], bool] = lambda: False

    @property
    def shards(self) -> Sequence[Shard]:
        """The shards in the order of their parts."""
        return self.dataset.reader.manifest.shards

    def embed(self, numbers: Sequence[int]) -> Iterator[tuple[Shard, PartSummary]]:
        """Write the parts of shards, one after the other, and yield each shard when it is done."""
        chunks = [chunk for number in numbers for chunk in self._chunks(number)]
        batches: Iterator[Any]
        batches = evaluation_batches(self.dataset, chunks, workers=self.workers)
        for number in numbers:
            yield self.shards[number], self._embed_shard(number, batches)

    def _embed_shard(
        self, number: int, batches: Iterator[EvaluationBatch | ComposedBatch]
    ) -> PartSummary:
        folder, chunks = self.folder, self._chunks(number)
        index = self.dataset.reader.manifest.index_digests[number]
        what = f"embedding {self.shards[number].name}: sample"
        with (
            write_part(folder.url, number, self.info, index, folder.storage) as part,
            activity(what, self.shards[number].num_samples) as done,
        ):
            for chunk in chunks:
                if self.interrupted():
                    raise UnfinishedError(INTERRUPTED)
                with activity("waiting for data"):
                    batch = next(batches)
                self._write(part, batch, chunks[0].start)
                self.faults.count(batch.faults, len(chunk))
                done.advance(len(chunk))
        return part.summary

    def _write(self, part: PartWriter, batch: EvaluationBatch | ComposedBatch, first: int) -> None:
        """Write the rows of a batch; `first` is the number of its shard's first sample."""
        records = batch_records(batch, first, part.summary.rows["images"])
        for side, vectors in encode_batch(self.method, batch, self.device).items():
            part.add(side, vectors.numpy(), records[side])
        part.add_faults(batch.faults)
        part.summary.samples += len(batch.records)

    def _chunks(self, number: int) -> list[range]:
        """Return the numbers of a shard's samples, cut into batches."""
        numbers, size = self.dataset.reader.numbers_of(number), self.batch_size
        return [numbers[at : at + size] for at in range(0, len(numbers), size)]
