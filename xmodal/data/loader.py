"""Training batches of a rank, independent of the number of workers."""

from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from time import perf_counter

import torch
from torch import Tensor

from xmodal.data.batch import Batch, Fault
from xmodal.data.decode import BadSample
from xmodal.data.plan import rank_positions
from xmodal.data.ring import Ring, Slot
from xmodal.data.sample_spec import parts_dropped
from xmodal.data.samples import RawSample
from xmodal.data.stream import Stream
from xmodal.data.training_set import TrainingSet


@dataclass(frozen=True)
class Note:
    """Report of a worker on its part of a batch, beside the tensors."""

    faults: tuple[Fault, ...]
    warnings: tuple[str, ...]  # of the storage: retried reads
    waited: dict[str, float]  # for the storage, seconds by shard
    seconds: float  # that the part took, waits included


class TrainingLoader:
    """Iterates over a rank's part of the global batches `steps`, (batch_size / ranks) samples each.

    A batch's tensors are valid until the second next batch is requested: their memory is reused.
    Lanes are distributed over workers, so that every shard is read by one of them.
    """

    def __init__(
        self,
        dataset: TrainingSet,
        steps: range,
        *,
        batch_size: int,
        rank: int,
        ranks: int,
        workers: int,
    ) -> None:
        self.dataset, self.steps = dataset, steps
        self.batch_size, self.rank, self.ranks = batch_size, rank, ranks
        self.lanes = dataset.mixture.lanes // ranks  # of this rank
        self.workers = min(workers, self.lanes)
        # Of workers, since the last lap: seconds of waiting for each shard, and of all their work.
        self.waited: defaultdict[str, float] = defaultdict(float)
        self.worked = 0.0

    def __iter__(self) -> Generator[Batch]:
        layout = self.dataset.layout(self.batch_size // self.ranks)
        for slot, notes in Ring(self._fill, layout, len(self.steps), self.workers):
            for note in notes:
                for shard, seconds in note.waited.items():
                    self.waited[shard] += seconds
                self.worked += note.seconds
            yield self._batch(slot, notes)

    def lap(self) -> dict[str, float | str]:
        """Return how workers spent their time since the last call: the share spent waiting for
        the storage, and the slowest shard.
        """
        figures: dict[str, float | str] = {
            "read_wait": sum(self.waited.values()) / max(self.worked, 1e-9),
            "slowest_shard": max(self.waited, key=lambda shard: self.waited[shard], default=""),
        }
        self.waited.clear()
        self.worked = 0.0
        return figures

    def _batch(self, slot: dict[str, Tensor], notes: Sequence[Note]) -> Batch:
        tensors = dict(slot)
        for name in ("", "second_", "extra_"):
            if f"{name}tokens" in tensors:
                tensors[f"{name}tokens"], tensors[f"{name}token_mask"] = _padded(
                    tensors[f"{name}tokens"],
                    tensors.pop(f"{name}lengths"),
                    self.dataset.tokenizer.pad,
                )
        for name in ("images", "second_images", "targets"):
            if name in tensors:
                tensors[name] = tensors[name].permute(0, 3, 1, 2)  # channels first
        if "extra_images" in tensors:
            tensors["extra_images"] = tensors["extra_images"].permute(0, 1, 4, 2, 3)
        return Batch(
            **tensors,
            faults=tuple(fault for note in notes for fault in note.faults),
            warnings=tuple(line for note in notes for line in note.warnings),
        )

    def _fill(self, worker: int, workers: int, slots: Iterable[Slot]) -> Iterator[Note]:
        # Row `j` is lane `j % lanes` of the rank's.
        rows = [
            row
            for row in range(self.batch_size // self.ranks)
            if row % self.lanes % workers == worker
        ]
        stream = Stream([one.reader for one in self.dataset.data_sets], self.dataset.mixture)
        warnings: list[str] = []
        for data_set in self.dataset.data_sets:
            data_set.reader.storage.say = warnings.append
        samples = stream.samples(self._positions(rows), self.steps.stop * self.batch_size)
        try:
            for slot in slots:
                yield self._fill_rows(slot, rows, samples, stream, warnings)
        finally:
            stream.close()

    def _fill_rows(
        self,
        slot: Slot,
        rows: Sequence[int],
        samples: Iterator[tuple[int, RawSample]],
        stream: Stream,
        warnings: list[str],
    ) -> Note:
        begun = perf_counter()
        faults: list[Fault] = []
        texts: list[list[str]] = []
        for row, (origin, sample) in zip(rows, islice(samples, len(rows)), strict=True):
            try:
                texts.append(self.dataset.fill(slot, row, origin, sample))
                faults += parts_dropped(sample)
            except BadSample as cause:
                bad = Fault(sample.shard, sample.key, str(cause), cause.by_choice)
                faults.append(bad)
                texts.append(self.dataset.substitute(slot, row, origin, bad, stream))
        for (tokens, lengths), each in zip(
            self.dataset.texts_of(slot), zip(*texts, strict=True), strict=False
        ):
            ids, mask = self.dataset.tokenizer(each)
            tokens[rows, : ids.shape[1]] = ids.numpy()
            lengths[rows] = mask.sum(1).numpy()
        waited, said = dict(stream.waited), tuple(warnings)
        stream.waited.clear()
        warnings.clear()
        return Note(tuple(faults), said, waited, perf_counter() - begun)

    def _positions(self, rows: Sequence[int]) -> Iterator[int]:
        for step in self.steps:
            mine = rank_positions(
                step, batch_size=self.batch_size, rank=self.rank, ranks=self.ranks
            )
            for row in rows:
                yield mine[row]


def _padded(tokens: Tensor, lengths: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """Return tokens (…, longest) and their mask; what the slot held before becomes padding."""
    length = int(lengths.max())
    mask = torch.arange(length) < lengths[..., None]
    return tokens[..., :length].where(mask, pad), mask
