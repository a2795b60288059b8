"""Texts and images beside a sample of a batch that are false of it: hard negatives."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch

from xmodal.data.chance import CAPTION, NEGATIVE, fraction, generator
from xmodal.data.config import NegativesConfig
from xmodal.data.decode import BadSample, open_image
from xmodal.data.reader import SampleReader
from xmodal.data.ring import Slot, Space
from xmodal.data.sample_spec import SampleSpec, features_of
from xmodal.data.samples import IMAGE_EXTENSIONS, RawSample, hash_id
from xmodal.data.swaps import swapped_captions
from xmodal.data.transforms import ImageTransform

NONE = -1  # number of no sample
_TEXTS = ("json", "txt")
_IMAGES = ("json", "txt", "image.npy", *IMAGE_EXTENSIONS)
FIRST_VIEW = 2  # of random numbers: those before are the views of the sample itself
IdOf = Callable[[RawSample, Sequence[str]], int]  # of a sample with its caption, in batches


@dataclass(frozen=True)
class MinedItems:
    """Numbers of the samples that are mined for each sample of a data set, hardest first."""

    texts: np.ndarray  # (samples, k) int64; `NONE` where there are fewer
    images: np.ndarray  # (samples, k) int64


@dataclass(frozen=True)
class Others:
    """Other samples of a data set, by what is mined for one of it, and their ids in batches."""

    reader: SampleReader
    mined: MinedItems | None
    id_of: IdOf

    def texts(self, number: int) -> list[RawSample]:
        """Return the samples whose captions are mined for a sample."""
        return self._load(self.mined.texts[number], _TEXTS) if self.mined else []

    def images(self, number: int) -> list[RawSample]:
        """Return the samples whose images are mined for a sample."""
        return self._load(self.mined.images[number], _IMAGES) if self.mined else []

    def _load(self, numbers: np.ndarray, files: Sequence[str]) -> list[RawSample]:
        return self.reader.load(numbers[numbers != NONE].tolist(), files)


class Text(NamedTuple):
    """A text beside a sample, and the id of what it is true of."""

    text: str
    origin: int  # of a written text its own id, which no sample has


class ExtraItems:
    """Draws the texts and images beside samples, as many as `counts` says, and writes them.

    Where there are fewer, the sample's own caption and image fill up: they are known by their ids.
    Random numbers depend on (seed, position) alone.
    """

    def __init__(self, counts: NegativesConfig, transform: ImageTransform, *, seed: int) -> None:
        self.counts, self.transform, self.seed = counts, transform, seed
        self.num_texts = counts.texts + counts.mined_texts
        self.num_images = counts.mined_images

    def layout(self, rows: int, kind: SampleSpec, context: int) -> dict[str, Space]:
        """Return the shapes and dtypes of tensors beside `rows` samples of a kind."""
        texts, images = (rows, self.num_texts), (rows, self.num_images)
        layout: dict[str, Space] = {}
        if self.num_texts:
            layout |= {
                "text_ids": ((rows,), np.int64),
                "extra_tokens": ((*texts, context), np.int64),
                "extra_lengths": (texts, np.int64),
                "extra_text_ids": (texts, np.int64),
                "extra_text_origins": (texts, np.int64),
            }
        if self.num_images:
            size = self.transform.size
            layout["extra_image_ids"] = (images, np.int64)
            if kind.image is None:
                layout["extra_images"] = ((*images, size, size, 3), np.uint8)
            else:
                layout["extra_image_features"] = ((*images, *kind.image), np.float32)
        return layout

    def tokens(self, slot: Slot) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield tokens (batch, context) and lengths (batch,) of each text that `fill` returns."""
        for number in range(self.num_texts):
            yield slot["extra_tokens"][:, number], slot["extra_lengths"][:, number]

    def fill(
        self,
        slot: Slot,
        row: int,
        position: int,
        sample: RawSample,
        captions: Sequence[str],
        others: Others,
    ) -> list[str]:
        """Write what is beside a sample whose own parts are written, and return the texts of it.

        `captions` are those that were drawn for it, none where features were.
        """
        if self.num_images:
            self._fill_images(slot, row, position, others, sample.number)
        if not self.num_texts:
            return []
        caption = captions[0] if captions else self._caption(position, sample)
        drawn = fraction(self.seed, position, NEGATIVE)
        written = in_turn(false_texts(sample, caption), drawn)[: self.counts.texts]
        texts = [Text(text, text_id(text)) for text in written]
        texts += self._mined_texts(position, others, sample.number)
        own = Text(caption, text_id(caption))
        texts += [own] * (self.num_texts - len(texts))
        slot["text_ids"][row] = text_id(caption)
        slot["extra_text_ids"][row] = [text_id(one.text) for one in texts]
        slot["extra_text_origins"][row] = [one.origin for one in texts]
        return [one.text for one in texts]

    def _caption(self, position: int, sample: RawSample) -> str:
        captions = sample.captions()
        return captions[int(fraction(self.seed, position, CAPTION) * len(captions))]

    def _mined_texts(self, position: int, others: Others, number: int) -> Iterator[Text]:
        for other in others.texts(number):
            try:
                caption = self._caption(position, other)
                yield Text(caption, others.id_of(other, [caption]))
            except BadSample:  # it is reported when its own turn comes
                continue

    def _fill_images(
        self, slot: Slot, row: int, position: int, others: Others, number: int
    ) -> None:
        ids = slot["extra_image_ids"][row]
        ids[:] = slot["image_ids"][row]
        name = "images" if "extra_images" in slot else "image_features"
        slot[f"extra_{name}"][row] = slot[name][row]
        for place, other in enumerate(others.images(number)):
            try:
                ids[place] = others.id_of(other, other.captions()[:1])
                self._write(slot, row, place, position, other)
            except BadSample:
                ids[place] = slot["image_ids"][row]

    def _write(self, slot: Slot, row: int, number: int, position: int, other: RawSample) -> None:
        if "extra_images" in slot:
            out = torch.from_numpy(slot["extra_images"][row, number]).permute(2, 0, 1)
            random = generator(self.seed, position, FIRST_VIEW + number)
            self.transform(open_image(other.image()), random, out)
        else:
            features = slot["extra_image_features"]
            features[row, number] = features_of(other, "image", features.shape[2:])


def false_texts(sample: RawSample, caption: str) -> list[str]:
    """Return texts that are false of a sample's image and near a caption of it, if there are any.

    They are the false captions that the sample has of that caption; of a sample that has none at
    all, those that rules write.
    """
    said, stored = sample.said().kept, sample.false_captions()
    if any(stored):
        found = stored[said.index(caption)] if caption in said else []
    else:
        found = swapped_captions(caption)
    return [text for text in found if text not in said]


def in_turn(texts: Sequence[str], drawn: float) -> list[str]:
    """Return texts from a place drawn in [0, 1) on, those before it last."""
    first = int(drawn * len(texts))
    return list(chain(texts[first:], texts[:first]))


def text_id(text: str) -> int:
    """Return an int64 that is equal for texts of the same words."""
    return hash_id(one_form(text))


def one_form(text: str) -> str:
    """Return a text without regard to case and spaces."""
    return " ".join(text.lower().split())
