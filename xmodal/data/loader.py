"""Batches for training: a rank's part of the plan's, the same from any number of workers."""

from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from xmodal.data.batch import Batch, Fault
from xmodal.data.chance import fraction, generator
from xmodal.data.config import MAX_PIXELS
from xmodal.data.decode import BadSample, open_image
from xmodal.data.kind import features_of, kind_of
from xmodal.data.mixture import Mixture
from xmodal.data.plan import rank_positions
from xmodal.data.reader import SampleReader
from xmodal.data.ring import Layout, Ring, Slot
from xmodal.data.samples import RawSample, hash_id
from xmodal.data.stream import Stream
from xmodal.data.tokens import CaptionTokenizer
from xmodal.data.transforms import ImageTransform
from xmodal.errors import UserError

REACH = 8  # samples on either side that may take an unusable sample's place
VIEWS = ("images", "second_images")


@dataclass(frozen=True)
class DataSet:
    """One of the data sets that are trained on, and which of its texts and images are used."""

    reader: SampleReader
    texts: Mapping[str, float] = field(default_factory=dict)  # keys, with probabilities
    min_side: int = 1
    max_pixels: int = MAX_PIXELS


class TrainingSet:
    """What the positions of a mixture hold: images or features, and a caption or features of it.

    With `labelled`, batches have the class of each sample, and one without is bad. What is random
    for a sample is drawn from (seed, position, view) alone, never from a worker or rank. A sample
    that cannot be used is reported, and a neighbour takes its place.
    """

    def __init__(
        self,
        data_sets: Sequence[DataSet],
        mixture: Mixture,
        transform: ImageTransform,
        tokenizer: CaptionTokenizer,
        *,
        seed: int,
        views: int = 1,
        labelled: bool = False,
    ) -> None:
        self.data_sets, self.mixture = data_sets, mixture
        self.transform, self.tokenizer = transform, tokenizer
        self.seed, self.views, self.labelled = seed, views, labelled

    def layout(self, rows: int) -> Layout:
        """Return the shapes and kinds of tensors that hold `rows` samples.

        All are like the first usable one of each data set: raises `UserError` where there is none,
        or data sets differ in what they hold.
        """
        kinds = {kind_of(one.reader, one.texts) for one in self.data_sets}
        if len(kinds) > 1:
            raise UserError(
                "data.train: some data sets hold features, or of another shape, and some do not; "
                "what is mixed has to be of one kind"
            )
        ((image, text),) = kinds
        size = self.transform.size
        layout: dict[str, tuple[tuple[int, ...], type]] = {}
        if image is None:
            # Channels last: what the decoder gives is written as it lies.
            shape = (rows, size, size, 3)
            layout |= dict.fromkeys(VIEWS[: self.views], (shape, np.uint8))
        else:
            layout["image_features"] = ((rows, *image), np.float32)
        if text is None:
            layout["tokens"] = ((rows, self.tokenizer.context), np.int64)
            layout["lengths"] = ((rows,), np.int64)
        else:
            layout["text_features"] = ((rows, *text), np.float32)
        if self.labelled:
            layout["labels"] = ((rows,), np.int64)
        return layout | {"image_ids": ((rows,), np.int64)}

    def fill(self, slot: Slot, row: int, position: int, sample: RawSample) -> str | None:
        """Write a sample into a row, and return the caption that was drawn for it, if it has any.

        Raises `BadSample`.
        """
        data_set = self.data_sets[self.mixture.own_position(position)[0]]
        caption = None
        if "text_features" not in slot:
            caption = sample.draw(fraction(self.seed, position), data_set.texts)
        else:
            texts = slot["text_features"]
            drawn = features_of(sample, "text", texts.shape[1:])
            chosen = int(fraction(self.seed, position) * len(drawn)) if len(drawn) > 1 else 0
            texts[row] = drawn[chosen]
        if "images" in slot:
            self._fill_image(slot, row, position, sample, data_set)
        else:
            images = slot["image_features"]
            images[row] = features_of(sample, "image", images.shape[1:])
        if self.labelled:
            slot["labels"][row] = hash_id(sample.label())
        slot["image_ids"][row] = hash_id(sample.image_id)
        return caption

    def substitute(
        self, slot: Slot, row: int, position: int, bad: Fault, stream: Stream
    ) -> str | None:
        """Write the nearest usable neighbour of a bad sample into its row; see `fill`.

        Raises `UserError` where there is none.
        """
        places = self.mixture.neighbours(position, REACH)
        by_choice = bad.by_choice
        for place in places:
            try:
                return self.fill(slot, row, position, stream.load(place))
            except BadSample as cause:  # it is reported when its own turn comes
                by_choice = by_choice and cause.by_choice
        if by_choice:
            raise UserError(
                f"{bad}; and none of its {len(places)} neighbours is of a size that the recipe "
                "wants: widen min_side or max_pixels, or build shards without such images"
            )
        raise UserError(
            f"{bad}; and none of its {len(places)} neighbours can be read either; "
            "run `python -m shards check` on the shards"
        )

    def _fill_image(
        self, slot: Slot, row: int, position: int, sample: RawSample, data_set: DataSet
    ) -> None:
        image = open_image(
            sample.image(), max_pixels=data_set.max_pixels, min_side=data_set.min_side
        )
        for view, name in enumerate(VIEWS[: self.views]):
            out = torch.from_numpy(slot[name][row]).permute(2, 0, 1)
            self.transform(image, generator(self.seed, position, view), out)


@dataclass(frozen=True)
class Note:
    """What a worker says of its part of a batch, beside the tensors."""

    faults: tuple[Fault, ...]
    notices: tuple[str, ...]  # of the storage: reads begun again
    waited: dict[str, float]  # for the storage, seconds by shard
    seconds: float  # that the part took, waits included


class TrainingLoader:
    """Yields a rank's part of the global batches `steps`, (batch_size / ranks) samples each.

    A batch's tensors hold until the next but one is asked for: they lie in memory that is used
    again. Lanes are dealt to workers, so that every shard is read by one of them.
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
        """Return how workers spent their time since the last call: the share that went by waiting
        for the storage, and the shard that was waited for longest.
        """
        figures: dict[str, float | str] = {
            "read_wait": sum(self.waited.values()) / max(self.worked, 1e-9),
            "slowest_shard": max(self.waited, key=lambda shard: self.waited[shard], default=""),
        }
        self.waited.clear()
        self.worked = 0.0
        return figures

    def _batch(self, slot: dict[str, Tensor], notes: Sequence[Note]) -> Batch:
        tokens = mask = None
        if "tokens" in slot:
            length = int(slot["lengths"].max())
            mask = torch.arange(length) < slot["lengths"][:, None]
            # Beyond a caption's end lies what the slot held before.
            tokens = slot["tokens"][:, :length].where(mask, self.dataset.tokenizer.pad)
        return Batch(
            images=_channels_first(slot.get("images")),
            second_images=_channels_first(slot.get("second_images")),
            tokens=tokens,
            token_mask=mask,
            image_features=slot.get("image_features"),
            text_features=slot.get("text_features"),
            image_ids=slot["image_ids"],
            labels=slot.get("labels"),
            faults=tuple(fault for note in notes for fault in note.faults),
            notices=tuple(line for note in notes for line in note.notices),
        )

    def _fill(self, worker: int, workers: int, slots: Iterable[Slot]) -> Iterator[Note]:
        # Row `j` is lane `j % lanes` of the rank's.
        rows = [
            row
            for row in range(self.batch_size // self.ranks)
            if row % self.lanes % workers == worker
        ]
        stream = Stream([one.reader for one in self.dataset.data_sets], self.dataset.mixture)
        notices: list[str] = []
        for data_set in self.dataset.data_sets:
            data_set.reader.storage.say = notices.append
        samples = stream.samples(self._positions(rows), self.steps.stop * self.batch_size)
        try:
            for slot in slots:
                yield self._fill_rows(slot, rows, samples, stream, notices)
        finally:
            stream.close()

    def _fill_rows(
        self,
        slot: Slot,
        rows: Sequence[int],
        samples: Iterator[tuple[int, RawSample]],
        stream: Stream,
        notices: list[str],
    ) -> Note:
        begun = perf_counter()
        faults: list[Fault] = []
        captions: list[str | None] = []
        for row, (position, sample) in zip(rows, islice(samples, len(rows)), strict=True):
            try:
                captions.append(self.dataset.fill(slot, row, position, sample))
            except BadSample as cause:
                faults.append(Fault(sample.shard, sample.key, str(cause), cause.by_choice))
                captions.append(self.dataset.substitute(slot, row, position, faults[-1], stream))
        if "tokens" in slot:
            ids, mask = self.dataset.tokenizer([caption or "" for caption in captions])
            slot["tokens"][rows, : ids.shape[1]] = ids.numpy()
            slot["lengths"][rows] = mask.sum(1).numpy()
        waited, said = dict(stream.waited), tuple(notices)
        stream.waited.clear()
        notices.clear()
        return Note(tuple(faults), said, waited, perf_counter() - begun)

    def _positions(self, rows: Sequence[int]) -> Iterator[int]:
        for step in self.steps:
            mine = rank_positions(
                step, batch_size=self.batch_size, rank=self.rank, ranks=self.ranks
            )
            for row in rows:
                yield mine[row]


def _channels_first(images: Tensor | None) -> Tensor | None:
    return None if images is None else images.permute(0, 3, 1, 2)
