"""Batches for training: a rank's part of the plan's, the same from any number of workers."""

from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from xmodal.data.batch import PAIRS, Batch, BatchSpec, Fault
from xmodal.data.chance import (
    CAPTION,
    NO_SECOND_TEXT,
    NO_TEXT,
    SECOND_CAPTION,
    fraction,
    generator,
)
from xmodal.data.decode import BadSample, EncodedImage, open_image
from xmodal.data.limits import MAX_PIXELS
from xmodal.data.mixture import Mixture
from xmodal.data.plan import rank_positions
from xmodal.data.reader import SampleReader
from xmodal.data.ring import Layout, Ring, Slot, Space
from xmodal.data.sample_spec import SampleSpec, features_of, infer_sample_spec, parts_dropped
from xmodal.data.samples import RawSample, hash_id
from xmodal.data.stream import Stream
from xmodal.data.tokens import CaptionTokenizer
from xmodal.data.transforms import ImageTransform
from xmodal.errors import UserError

REACH = 8  # samples on either side that may take an unusable sample's place
# Tensors of a batch, each with what of a sample it holds.
VIEWS = (("images", "image"), ("second_images", "image"))
COMPOSED = (("images", "source"), ("targets", "target"))
FEATURES = (("image_features", "image"),)
COMPOSED_FEATURES = (
    ("image_features", "source"),
    ("target_features", "target"),
    ("target_lower", "target.lower"),
)
# The first and the second caption of a sample: how its tensors are called, what it is drawn by.
CAPTIONS = (("", CAPTION), ("second_", SECOND_CAPTION))


@dataclass(frozen=True)
class DataSet:
    """One of the data sets that are trained on, and which of its texts and images are used."""

    reader: SampleReader
    texts: Mapping[str, float] = field(default_factory=dict)  # keys, with probabilities
    min_side: int = 1
    max_pixels: int = MAX_PIXELS


class TrainingSet:
    """What the positions of a mixture hold: images or features, and captions or features of them.

    `contents` says what of each sample, and one that has not all of it is bad. `text_dropout` is
    the share of views that are marked as without text. What is random for a sample is drawn from
    (seed, position, view) alone, never from a worker or rank. A sample that cannot be used is
    reported, and a neighbour takes its place. `positives` says what samples have in common that
    are no negatives of each other: `image`, `caption` or `label`.
    """

    def __init__(
        self,
        data_sets: Sequence[DataSet],
        mixture: Mixture,
        transform: ImageTransform,
        tokenizer: CaptionTokenizer,
        *,
        seed: int,
        contents: BatchSpec = PAIRS,
        text_dropout: float = 0.0,
        positives: str = "image",
    ) -> None:
        self.data_sets, self.mixture = data_sets, mixture
        self.transform, self.tokenizer = transform, tokenizer
        self.seed, self.contents, self.text_dropout = seed, contents, text_dropout
        self.positives = positives
        self.views = COMPOSED if contents.composed else VIEWS[: contents.views]
        self.features = COMPOSED_FEATURES if contents.composed else FEATURES

    def layout(self, rows: int) -> Layout:
        """Return the shapes and kinds of tensors that hold `rows` samples.

        All are like the first usable one of each data set: raises `UserError` where there is none,
        or data sets differ in what they hold.
        """
        kinds = {
            infer_sample_spec(one.reader, one.texts, captions=self.contents.captions)
            for one in self.data_sets
        }
        if len(kinds) > 1:
            raise UserError(
                "data.train: some data sets hold features, or of another shape, or composed "
                "queries, and some do not; what is mixed has to be of one kind"
            )
        (kind,) = kinds
        layout = self._layout_of_images(kind, rows) | self._layout_of_texts(kind, rows)
        if self.contents.labels:
            layout["labels"] = ((rows,), np.int64)
        if self.contents.composed:
            layout["source_ids"] = ((rows,), np.int64)
        if self.text_dropout:
            layout["text_dropped"] = ((rows, self.contents.views), np.bool_)
        return layout | {"image_ids": ((rows,), np.int64)}

    def _layout_of_images(self, kind: SampleSpec, rows: int) -> dict[str, Space]:
        if kind.image is None:
            # Channels last: what the decoder gives is written as it lies.
            size = self.transform.size
            return {name: ((rows, size, size, 3), np.uint8) for name, _ in self.views}
        shapes = {"target_lower": kind.lower}
        return {
            name: ((rows, *shape), np.float32)
            for name, _ in self.features
            if (shape := shapes.get(name, kind.image)) is not None
        }

    def _layout_of_texts(self, kind: SampleSpec, rows: int) -> dict[str, Space]:
        layout: dict[str, Space] = {}
        for name, _ in CAPTIONS[: self.contents.captions]:
            if kind.text is None:
                layout[f"{name}tokens"] = ((rows, self.tokenizer.context), np.int64)
                layout[f"{name}lengths"] = ((rows,), np.int64)
            else:
                layout[f"{name}text_features"] = ((rows, *kind.text), np.float32)
        return layout

    def fill(self, slot: Slot, row: int, position: int, sample: RawSample) -> list[str]:
        """Write a sample into a row, and return the captions that were drawn for it, if any.

        Raises `BadSample`.
        """
        data_set = self.data_sets[self.mixture.own_position(position)[0]]
        if self.contents.composed and not sample.composed:
            raise BadSample("no modification in its json")
        captions = self._fill_texts(slot, row, position, sample, data_set)
        if "images" in slot:
            self._fill_images(slot, row, position, sample, data_set)
        for name, side in self.features:
            if name in slot:
                slot[name][row] = features_of(sample, side, slot[name].shape[1:])
        if "text_dropped" in slot:
            for view, purpose in enumerate((NO_TEXT, NO_SECOND_TEXT)[: self.contents.views]):
                drawn = fraction(self.seed, position, purpose)
                slot["text_dropped"][row, view] = drawn < self.text_dropout
        if self.contents.labels:
            slot["labels"][row] = hash_id(sample.label())
        if self.contents.composed:
            slot["source_ids"][row] = hash_id(sample.source_id)
        slot["image_ids"][row] = hash_id(self._id(sample, captions))
        return captions

    def substitute(
        self, slot: Slot, row: int, position: int, bad: Fault, stream: Stream
    ) -> list[str]:
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

    def _id(self, sample: RawSample, captions: Sequence[str]) -> str:
        """Return what positives have in common: the id of the image, of a query that of its
        target, or the caption or label that stands for it.
        """
        if self.positives == "caption":
            return " ".join(captions[0].lower().split())
        if self.positives == "label":
            return sample.label()
        if not self.contents.composed:
            return sample.image_id
        if sample.target_id is None:
            raise BadSample("no target_id in its json")
        return sample.target_id

    def _fill_texts(
        self, slot: Slot, row: int, position: int, sample: RawSample, data_set: DataSet
    ) -> list[str]:
        """Write features of texts, or return the texts: of two views two, where there are two."""
        if "text_features" in slot:
            self._fill_text_features(slot, row, position, sample)
            return []
        captions: list[str] = []
        for _, purpose in CAPTIONS[: self.contents.captions]:
            drawn = fraction(self.seed, position, purpose)
            captions.append(sample.draw(drawn, data_set.texts, *captions))
        return captions

    def _fill_text_features(self, slot: Slot, row: int, position: int, sample: RawSample) -> None:
        texts = slot["text_features"]
        rows = features_of(sample, "text", texts.shape[1:])
        first = int(fraction(self.seed, position, CAPTION) * len(rows))
        texts[row] = rows[first]
        if "second_text_features" in slot:
            second = int(fraction(self.seed, position, SECOND_CAPTION) * (len(rows) - 1))
            second += second >= first and len(rows) > 1  # any but the first
            slot["second_text_features"][row] = rows[second]

    def _fill_images(
        self, slot: Slot, row: int, position: int, sample: RawSample, data_set: DataSet
    ) -> None:
        opened: dict[str, EncodedImage] = {}
        for view, (name, role) in enumerate(self.views):
            if role not in opened:
                opened[role] = open_image(
                    sample.image(role), max_pixels=data_set.max_pixels, min_side=data_set.min_side
                )
            out = torch.from_numpy(slot[name][row]).permute(2, 0, 1)
            self.transform(opened[role], generator(self.seed, position, view), out)


@dataclass(frozen=True)
class Note:
    """Report of a worker on its part of a batch, beside the tensors."""

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
        tensors = dict(slot)
        for name, _ in CAPTIONS:
            if f"{name}tokens" in tensors:
                tensors[f"{name}tokens"], tensors[f"{name}token_mask"] = _padded(
                    tensors[f"{name}tokens"],
                    tensors.pop(f"{name}lengths"),
                    self.dataset.tokenizer.pad,
                )
        for name in ("images", "second_images", "targets"):
            if name in tensors:
                tensors[name] = tensors[name].permute(0, 3, 1, 2)  # channels first
        return Batch(
            **tensors,
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
        captions: list[list[str]] = []
        for row, (position, sample) in zip(rows, islice(samples, len(rows)), strict=True):
            try:
                captions.append(self.dataset.fill(slot, row, position, sample))
                faults += parts_dropped(sample)
            except BadSample as cause:
                bad = Fault(sample.shard, sample.key, str(cause), cause.by_choice)
                faults.append(bad)
                captions.append(self.dataset.substitute(slot, row, position, bad, stream))
        for (name, _), texts in zip(CAPTIONS, zip(*captions, strict=True), strict=False):
            ids, mask = self.dataset.tokenizer(texts)
            slot[f"{name}tokens"][rows, : ids.shape[1]] = ids.numpy()
            slot[f"{name}lengths"][rows] = mask.sum(1).numpy()
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


def _padded(tokens: Tensor, lengths: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """Return tokens (batch, longest) and their mask; what the slot held before becomes padding."""
    length = int(lengths.max())
    mask = torch.arange(length) < lengths[:, None]
    return tokens[:, :length].where(mask, pad), mask
