"""An image tower and a text tower, which most methods begin with."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from xmodal.data.batch import Batch
from xmodal.methods.method import Method, in_precision
from xmodal.models.heads.mlp import Mlp
from xmodal.models.tower import Build, Tower, projection


@dataclass
class Embeddings:
    """Embeddings of a batch; a side that the batch lacks is None."""

    images: Tensor | None  # (batch, dim) float32, of length 1
    texts: Tensor | None  # (batch, dim) float32, of length 1
    image_ids: Tensor | None  # (batch,) int64
    labels: Tensor | None = None  # (batch,) int64
    sample_numbers: Tensor | None = None  # (batch,) int64


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
        return Embeddings(
            _unit(images), _unit(texts), batch.image_ids, batch.labels, batch.sample_numbers
        )


def pairs(embeddings: Embeddings) -> Matched:
    """Return the pairs of images and texts; ids are those of the images."""
    return _matched(embeddings, embeddings.image_ids)


def classes(embeddings: Embeddings) -> Matched:
    """Return the pairs of images and texts; ids are labels."""
    return _matched(embeddings, embeddings.labels)


def _matched(embeddings: Embeddings, ids: Tensor | None) -> Matched:
    assert embeddings.images is not None
    assert embeddings.texts is not None
    assert ids is not None
    return Matched(embeddings.images, embeddings.texts, ids)


def _unit(embeddings: Tensor | None) -> Tensor | None:
    return None if embeddings is None else F.normalize(embeddings.float(), dim=-1)
