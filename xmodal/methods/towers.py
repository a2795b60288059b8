"""An image tower and a text tower, which most methods begin with."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from xmodal.data.batch import Batch
from xmodal.distributed.collectives import gather
from xmodal.methods.method import Method, in_precision
from xmodal.models.heads.mlp import Mlp
from xmodal.models.tower import Build, Tower, projection
from xmodal.objectives.extra import Extra, Seen, Side
from xmodal.objectives.pairwise.tiles import NO_ROWS, first_equal, precise


@dataclass
class Embeddings:
    """Embeddings of a batch; a side that the batch lacks is None."""

    images: Tensor | None  # (batch, dim) float32, of length 1
    texts: Tensor | None  # (batch, dim) float32, of length 1
    image_ids: Tensor | None  # (batch,) int64
    labels: Tensor | None = None  # (batch,) int64
    sample_numbers: Tensor | None = None  # (batch,) int64
    extra_texts: Tensor | None = None  # (batch, k, dim), false of the image
    text_ids: Tensor | None = None  # (batch,) int64, equal for equal texts
    extra_text_ids: Tensor | None = None  # (batch, k) int64, as `text_ids`
    extra_text_origins: Tensor | None = None  # (batch, k) int64, `image_ids` of what they describe
    extra_images: Tensor | None = None  # (batch, m, dim), the caption is false of them
    extra_image_ids: Tensor | None = None  # (batch, m) int64, as `image_ids`


@dataclass
class Matched:
    """Both sides of every pair, as losses take them."""

    images: Tensor  # (batch, dim)
    texts: Tensor  # (batch, dim)
    ids: Tensor  # (batch,) int64, equal for pairs that are no negatives of each other


class TwoTowers(Method):
    """Images v and texts t as unit vectors in one space."""

    def __init__(
        self,
        image: Build,
        text: Build,
        image_head: Build | None = Mlp,
        text_head: Build | None = Mlp,
        embedding: int = 256,
        *,
        vocabulary: int,
        bf16: bool = False,
    ) -> None:
        super().__init__(bf16=bf16)
        images, texts = image(), text(vocabulary=vocabulary)
        self.image = Tower(images, projection(image_head, images, embedding, "image"))
        self.text = Tower(texts, projection(text_head, texts, embedding, "text"))

    def encode(self, batch: Batch) -> Embeddings:
        """Embed each image and caption by itself."""
        images = texts = None
        with in_precision(self):
            if batch.images is not None or batch.image_features is not None:
                images = self.image(batch.images, features=batch.image_features)
            if batch.tokens is not None or batch.text_features is not None:
                texts = self.text(*batch.texts, features=batch.text_features)
            extra_texts, extra_images = self._encode_extra(batch)
        return Embeddings(
            _unit(images),
            _unit(texts),
            batch.image_ids,
            batch.labels,
            batch.sample_numbers,
            _unit(extra_texts),
            batch.text_ids,
            batch.extra_text_ids,
            batch.extra_text_origins,
            _unit(extra_images),
            batch.extra_image_ids,
        )

    def _encode_extra(self, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
        texts = images = None
        if batch.extra_text_ids is not None:
            texts = self.text(*batch.extra_texts).unflatten(0, batch.extra_text_ids.shape)
        if batch.extra_image_ids is not None:
            pixels, features = batch.extra_pictures
            images = self.image(pixels, features=features)
            images = images.unflatten(0, batch.extra_image_ids.shape)
        return texts, images


def pairs(embeddings: Embeddings) -> Matched:
    """Return the pairs of images and texts; ids are those of the images."""
    return _matched(embeddings, embeddings.image_ids)


def classes(embeddings: Embeddings) -> Matched:
    """Return the pairs of images and texts; ids are labels."""
    return _matched(embeddings, embeddings.labels)


def extra_negatives(embeddings: Embeddings, seen: Seen) -> list[Extra]:
    """Return the extra texts as negatives of images, and the extra images as negatives of texts.

    A caption or an image of the global batch is skipped: there it is a negative already, but of
    those that it is true of.
    """
    found: list[Extra] = []
    if embeddings.extra_texts is not None:
        known = _among(embeddings.extra_text_ids, embeddings.text_ids)
        found.append(
            _extra(embeddings.extra_texts, embeddings.extra_text_origins, known, "y", seen)
        )
    if embeddings.extra_images is not None:
        known = _among(embeddings.extra_image_ids, embeddings.image_ids)
        found.append(_extra(embeddings.extra_images, embeddings.extra_image_ids, known, "x", seen))
    return found


def _among(ids: Tensor | None, of_batch: Tensor | None) -> Tensor:
    """Return whether each id (batch, k) is one of the global batch's, (batch × k,)."""
    assert ids is not None
    assert of_batch is not None
    return first_equal(ids.flatten(), gather(of_batch)) >= 0


def _extra(items: Tensor, ids: Tensor | None, known: Tensor, side: Side, seen: Seen) -> Extra:
    assert ids is not None
    return Extra(items.flatten(0, 1), ids.flatten().masked_fill(known, NO_ROWS), side, seen)


def _matched(embeddings: Embeddings, ids: Tensor | None) -> Matched:
    assert embeddings.images is not None
    assert embeddings.texts is not None
    assert ids is not None
    return Matched(embeddings.images, embeddings.texts, ids)


def _unit(embeddings: Tensor | None) -> Tensor | None:
    return None if embeddings is None else F.normalize(precise(embeddings), dim=-1)
