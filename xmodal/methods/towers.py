"""An image tower and a text tower, which most methods begin with."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.data.batch import Batch
from xmodal.errors import UserError
from xmodal.methods.config import TowersConfig
from xmodal.methods.method import Method, in_precision
from xmodal.models.config import HeadConfig
from xmodal.models.encoder import Encoder
from xmodal.models.heads import Head, Tower
from xmodal.models.images import image_encoder
from xmodal.models.texts import text_encoder


@dataclass
class Embeddings:
    """What the towers make of a batch; a side that the batch lacks is None."""

    images: Tensor | None  # (batch, dim) float32, of length 1
    texts: Tensor | None  # (batch, dim) float32, of length 1
    image_ids: Tensor | None  # (batch,) int64
    labels: Tensor | None = None  # (batch,) int64


@dataclass
class Matched:
    """Both sides of every pair, as losses take them."""

    images: Tensor  # (batch, dim)
    texts: Tensor  # (batch, dim)
    ids: Tensor  # (batch,) int64, equal for pairs that are no negatives of each other


class TwoTowers(Method):
    """Images v and texts t as unit vectors in one space."""

    def __init__(self, config: TowersConfig, vocabulary: int, *, bf16: bool = False) -> None:
        super().__init__(bf16=bf16)
        image, text = image_encoder(config.image), text_encoder(config.text, vocabulary)
        self.image = Tower(image, head(config.image_head, image, config.embedding, "image"))
        self.text = Tower(text, head(config.text_head, text, config.embedding, "text"))

    def encode(self, batch: Batch) -> Embeddings:
        """Embed each image and caption by itself."""
        images = texts = None
        with in_precision(self):
            if batch.images is not None or batch.image_features is not None:
                images = self.image(batch.images, features=batch.image_features)
            if batch.tokens is not None or batch.text_features is not None:
                texts = self.text(batch.tokens, batch.token_mask, features=batch.text_features)
        return Embeddings(_unit(images), _unit(texts), batch.image_ids, batch.labels)


def head(config: HeadConfig | None, encoder: Encoder, dim: int, side: str) -> nn.Module:
    """Return the projection that a recipe describes.

    Raises `UserError` where there is none, and features are not as wide as the common space.
    """
    if config is not None:
        return Head(config, encoder.features, dim)
    if encoder.features != dim:
        raise UserError(
            f"method.{side}_head is null, so method.embedding has to be {encoder.features}, the "
            f"width of the {side}'s features, not {dim}"
        )
    return nn.Identity()


def pairs(embeddings: Embeddings) -> Matched:
    """Return the pairs of images and texts, which are told apart by their images."""
    return _matched(embeddings, embeddings.image_ids)


def classes(embeddings: Embeddings) -> Matched:
    """Return the pairs of images and texts, which belong together where their labels are equal."""
    return _matched(embeddings, embeddings.labels)


def _matched(embeddings: Embeddings, ids: Tensor | None) -> Matched:
    assert embeddings.images is not None
    assert embeddings.texts is not None
    assert ids is not None
    return Matched(embeddings.images, embeddings.texts, ids)


def _unit(embeddings: Tensor | None) -> Tensor | None:
    return None if embeddings is None else F.normalize(embeddings.float(), dim=-1)
