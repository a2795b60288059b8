"""Training samples: the tensors that each position of a mixture fills in a batch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from xmodal.data.batch import PAIRS, Batch, BatchSpec, Fault
from xmodal.data.chance import (
    CAPTION,
    NO_SECOND_TEXT,
    NO_TEXT,
    SECOND_CAPTION,
    fraction,
    generator,
)
from xmodal.data.config import NegativesConfig
from xmodal.data.decode import BadSample, EncodedImage, open_image
from xmodal.data.extra_items import (
    ExtraItems,
    MinedItems,
    Others,
    one_form,
)
from xmodal.data.limits import MAX_PIXELS
from xmodal.data.mixture import Mixture
from xmodal.data.numbered_views import NumberedViews
from xmodal.data.reader import SampleReader
from xmodal.data.ring import Layout, Slot, Space
from xmodal.data.sample_spec import SampleSpec, features_of, infer_sample_spec
from xmodal.data.samples import RawSample, hash_id
from xmodal.data.storage import split_url
from xmodal.data.stream import Stream
from xmodal.data.tokens import CaptionTokenizer
from xmodal.data.transforms import ImageTransform
from xmodal.errors import UserError

REACH = 8  # samples on either side that may take an unusable sample's place
# Tensors of a batch, each with the part of a sample that it holds.
VIEWS = (("images", "image"), ("second_images", "image"))
COMPOSED = (("images", "source"), ("targets", "target"))
FEATURES = (("image_features", "image"),)
COMPOSED_FEATURES = (
    ("image_features", "source"),
    ("target_features", "target"),
    ("target_lower", "target.lower"),
)
# The first and the second caption of a sample: prefix of its tensors, purpose of its random draw.
CAPTIONS = (("", CAPTION), ("second_", SECOND_CAPTION))


@dataclass(frozen=True)
class DataSet:
    """A training data set, and the selection of its texts and images."""

    reader: SampleReader
    texts: Mapping[str, float] = field(default_factory=dict)  # keys, with probabilities
    templates: Sequence[str] = ()  # that labels are put into
    min_side: int = 1
    max_pixels: int = MAX_PIXELS
    duplicates: Mapping[int, int] = field(default_factory=dict)  # by an image's id, that of all
    mined: MinedItems | None = None

    def shared_id(self, sample: RawSample, image_id: str) -> int:
        """Return the id that an image of a sample shares with its duplicates."""
        own = hash_id(image_id)
        if not self.duplicates:
            return own
        if image_id == f"{sample.shard}/{sample.key}":
            # Without an id, a table names an image by its shard without the folder.
            image_id = f"{split_url(sample.shard)[1]}/{sample.key}"
        return self.duplicates.get(hash_id(image_id), own)


class TrainingSet:
    """Samples at the positions of a mixture: images or features, and captions or features of them.

    `contents` selects the parts of a sample; a sample that lacks one of them is bad.
    `negatives` are the numbers of items beside each sample that are false of it, whose images
    `extra_transform` prepares.
    `text_dropout` is the share of views that are marked as without text. Random numbers depend on
    (seed, position, view) alone, never on a worker or rank; positions are the origins of `Stretch`.
    A sample that cannot be used is reported, and a neighbour takes its place. Samples that share
    their `positives` (`image`, `caption` or `label`) are not negatives of each other. Where a
    teacher has embeddings of `numbered` views, these are the ones that are shown.
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
        negatives: NegativesConfig | None = None,
        extra_transform: ImageTransform | None = None,
        text_dropout: float = 0.0,
        positives: str = "image",
        numbered: NumberedViews | None = None,
    ) -> None:
        self.data_sets, self.mixture = data_sets, mixture
        self.transform, self.tokenizer = transform, tokenizer
        self.seed, self.contents, self.text_dropout = seed, contents, text_dropout
        self.positives, self.numbered = positives, numbered
        # Samples of several data sets are numbered on from one to the next.
        self.first_numbers = list(accumulate((len(one.reader) for one in data_sets), initial=0))
        beside = extra_transform or transform
        self.extra = ExtraItems(negatives, beside, seed=seed) if negatives else None
        self.views = COMPOSED if contents.composed else VIEWS[: contents.views]
        self.features = COMPOSED_FEATURES if contents.composed else FEATURES
        if mixture.buckets and tokenizer.padded:
            raise UserError(
                "data.length_buckets: the tokenizer pads all texts to method.text.context="
                f"{tokenizer.context}, so there is no padding to cut; set it to false"
            )

    @property
    def num_samples(self) -> int:
        """Number of different samples, which `sample_numbers` are below."""
        return self.first_numbers[-1]

    def layout(self, rows: int) -> Layout:
        """Return the shapes and dtypes of tensors that hold `rows` samples.

        The first usable sample of each data set determines them. Raises `UserError` when a data set
        has none, or when data sets hold different kinds of samples.
        """
        kinds = {
            infer_sample_spec(one.reader, one.texts, captions=self.contents.captions)
            for one in self.data_sets
        }
        if len(kinds) > 1:
            raise UserError(
                "data.train: some data sets hold features, or of another shape, or composed "
                "queries, and some do not; mix data sets of one kind only"
            )
        (kind,) = kinds
        layout = self._layout_of_images(kind, rows) | self._layout_of_texts(kind, rows)
        if self.contents.labels:
            layout["labels"] = ((rows,), np.int64)
        if self.contents.numbers:
            layout["sample_numbers"] = ((rows,), np.int64)
        if self.contents.composed:
            layout["source_ids"] = ((rows,), np.int64)
        for name in ("teacher_images", "teacher_texts") if self.contents.teacher else ():
            layout[name] = ((rows, self.contents.teacher), np.float32)
        if self.text_dropout:
            layout["text_dropped"] = ((rows, self.contents.views), np.bool_)
        extra = self.extra.layout(rows, kind, self.tokenizer.context) if self.extra else {}
        return layout | extra | {"image_ids": ((rows,), np.int64)}

    def _layout_of_images(self, kind: SampleSpec, rows: int) -> dict[str, Space]:
        if kind.image is None:
            # Channels last, as the decoder writes them.
            size, deferred = self.transform.size, self.transform.deferred
            layout: dict[str, Space] = {
                name: ((rows, size, size, 3), np.uint8) for name, _ in self.views
            }
            if deferred:
                layout["draws"] = ((rows, len(self.views), deferred.width), np.float64)
            return layout
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

    def texts_of(self, slot: Slot) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield tokens (batch, context) and lengths (batch,) of each text that `fill` returns."""
        for prefix, _ in CAPTIONS:
            if f"{prefix}tokens" in slot:
                yield slot[f"{prefix}tokens"], slot[f"{prefix}lengths"]
        if self.extra:
            yield from self.extra.tokens(slot)

    def fill(self, slot: Slot, row: int, position: int, sample: RawSample) -> list[str]:
        """Write a sample into a row, and return the texts of it that are tokens to be, if any:
        captions that were drawn for it, and extra texts.

        Raises `BadSample`.
        """
        number, _ = self.mixture.own_position(position)
        data_set = self.data_sets[number]
        if self.contents.composed and not sample.composed:
            raise BadSample("no modification in its json")
        captions = self._fill_texts(slot, row, position, sample, data_set)
        if "images" in slot:
            self._fill_images(slot, row, position, sample, data_set)
        self._fill_features(slot, row, sample)
        if self.numbered:
            self._fill_teacher(slot, row, position, sample, captions[0])
        if "text_dropped" in slot:
            for view, purpose in enumerate((NO_TEXT, NO_SECOND_TEXT)[: self.contents.views]):
                drawn = fraction(self.seed, position, purpose)
                slot["text_dropped"][row, view] = drawn < self.text_dropout
        if self.contents.labels:
            slot["labels"][row] = hash_id(sample.label())
        if self.contents.numbers:
            slot["sample_numbers"][row] = self.first_numbers[number] + sample.number
        if self.contents.composed:
            slot["source_ids"][row] = hash_id(sample.source_id)
        slot["image_ids"][row] = self._shared_id(data_set, sample, captions)
        if self.extra is None:
            return captions
        id_of = partial(self._shared_id, data_set)
        others = Others(data_set.reader, data_set.mined, id_of)
        return captions + self.extra.fill(slot, row, position, sample, captions, others)

    def substitute(
        self, slot: Slot, row: int, position: int, bad: Fault, stream: Stream
    ) -> list[str]:
        """Write the nearest usable neighbour of a bad sample into its row; see `fill`.

        Raises `UserError` if there is none.
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

    def _shared_id(self, data_set: DataSet, sample: RawSample, captions: Sequence[str]) -> int:
        """Return the id of the image or of what stands in its place, as an int64."""
        return data_set.shared_id(sample, self._id(sample, captions))

    def _id(self, sample: RawSample, captions: Sequence[str]) -> str:
        """Return the id that positives share: that of the image or of a query's target, or the
        caption or label in its place.
        """
        if self.positives == "caption":
            return one_form(captions[0])
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
        """Write text features, or return the drawn captions: one per view, if there are enough."""
        if "text_features" in slot:
            self._fill_text_features(slot, row, position, sample)
            return []
        captions: list[str] = []
        for _, purpose in CAPTIONS[: self.contents.captions]:
            drawn = fraction(self.seed, position, purpose)
            captions.append(
                sample.draw(drawn, data_set.texts, *captions, templates=data_set.templates)
            )
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
            draws = slot["draws"][row, view] if "draws" in slot else None
            self.transform(opened[role], self._random(position, view, sample), out, draws)

    def _fill_features(self, slot: Slot, row: int, sample: RawSample) -> None:
        for name, side in self.features:
            if name in slot:
                slot[name][row] = features_of(sample, side, slot[name].shape[1:])

    def _random(self, position: int, view: int, sample: RawSample) -> np.random.Generator:
        """Return the generator that a view of the sample at a position is drawn from."""
        if self.numbered is None:
            return generator(self.seed, position, view)
        return self.numbered.generator(sample, self.numbered.choose(self.seed, position))

    def _fill_teacher(
        self, slot: Slot, row: int, position: int, sample: RawSample, caption: str
    ) -> None:
        """Write the teacher's embeddings of the view and of the caption that were drawn."""
        assert self.numbered
        images, texts = (sample.features(f"teacher.{side}") for side in ("image", "text"))
        captions = sample.captions()
        if images is None or texts is None:
            raise BadSample("no embeddings of the teacher")
        if (len(images), len(texts)) != (self.numbered.count, len(captions)):
            raise BadSample("embeddings of the teacher of other views or captions")
        slot["teacher_images"][row] = images[self.numbered.choose(self.seed, position)]
        slot["teacher_texts"][row] = texts[captions.index(caption)]

    def augmented(self, batch: Batch) -> Batch:
        """Return a batch on its device with all of its views' augmentations applied."""
        if batch.draws is None or self.transform.deferred is None:
            return batch
        views: dict[str, Any] = {
            name: self.transform.deferred.apply(getattr(batch, name), batch.draws[:, view])
            for view, (name, _) in enumerate(self.views)
        }
        return replace(batch, draws=None, **views)
