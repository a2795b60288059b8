"""TIRG: composing text and image for retrieval (Vo et al. 2019, arXiv 1812.07119).

A query is a source image x and a text t that says what is to change; it is answered by the target
image y. Features φ_x and φ_t are composed to φ_f, which is to be near φ_y: TIRG modifies φ_x by a
gate and a residual. `method.fusion` names the other compositions of the paper, too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from xmodal.data.batch import Batch, BatchSpec
from xmodal.methods.config import ComposedConfig
from xmodal.methods.method import Loss, Method, in_precision
from xmodal.models.composition import composition
from xmodal.models.config import Composition
from xmodal.models.encoder import Encoder, Local, cached_local
from xmodal.models.heads.mlp import Mlp
from xmodal.models.tower import Build, Tower, projection
from xmodal.objectives.batch_classification import BatchClassification
from xmodal.objectives.pairwise.tiles import precise
from xmodal.objectives.soft_triplet import SoftTriplet


class TirgConfig(ComposedConfig):
    """Composed queries against their targets (TIRG: Vo et al. 2019)."""

    kind: Literal["tirg"] = "tirg"
    builds: ClassVar[str] = "Tirg"


@dataclass
class ComposedEmbeddings:
    """Embeddings of a batch of composed queries; a side that the batch lacks is None."""

    queries: Tensor | None  # (batch, dim) at least float32, of length 1
    targets: Tensor | None  # (batch, dim) at least float32, of length 1
    image_ids: Tensor | None  # (batch,) int64, equal for equal targets


class Image(NamedTuple):
    """Features of an image: of its positions, as far as they are read, and φ of the whole."""

    local: Local
    whole: Tensor  # (batch, dim)


@dataclass
class Composed:
    """Features of a batch before they are divided by their lengths."""

    source: Image | None
    text: Tensor | None  # φ_t (batch, dim)
    target: Image | None
    fused: Tensor | None  # φ_f (batch, dim)


class Tirg(Method):
    """Queries near their targets, and far from the other targets of the global batch."""

    contents = BatchSpec(composed=True)
    monitored: tuple[str, ...] = ("norm",)

    def __init__(
        self,
        image: Build,
        text: Build,
        image_head: Build | None = Mlp,
        text_head: Build | None = Mlp,
        embedding: int = 512,
        fusion: Composition = "tirg",
        norm: float = 4.0,
        *,
        vocabulary: int,
        bf16: bool = False,
    ) -> None:
        super().__init__(bf16=bf16)
        images, texts = image(), text(vocabulary=vocabulary)
        self.image = Tower(images, projection(image_head, images, embedding, "image"))
        self.text = Tower(texts, projection(text_head, texts, embedding, "text"))
        self.on_map = fusion == "tirg_map"
        self.local = self.local or self.on_map
        self.fusion = composition(fusion, images.local_features, embedding)
        self.classification = BatchClassification(norm=norm)
        self.triplet = SoftTriplet(norm=norm)
        # One length of both losses; in either's module, where ZeRO 3 has it when it is needed.
        self.triplet.norm = self.classification.norm

    @property
    def losses(self) -> Mapping[str, Loss]:
        """The losses of the paper, one or the other."""
        return {
            "batch_classification": self.batch_classification,
            "soft_triplet": self.soft_triplet,
        }

    def encode(self, batch: Batch) -> ComposedEmbeddings:
        """Embed each query and each target by itself."""
        return self.retrieved(self.compose(batch), batch)

    def compose(self, batch: Batch) -> Composed:
        """Return features of each source, text and target of a batch, and of what is asked for."""
        with in_precision(self):
            source = self._image(batch.images, batch.image_features)
            target = self._image(batch.targets, batch.target_features)
            text = self._text(batch)
            fused = None
            if source is not None and text is not None:
                fused = (
                    self.image.head(self.fusion(source.local.rows, text))
                    if self.on_map
                    else self.fusion(source.whole, text)
                )
        return Composed(source, text, target, fused)

    def retrieved(self, composed: Composed, batch: Batch) -> ComposedEmbeddings:
        """Return the embeddings of a batch."""
        targets = None if composed.target is None else _unit(composed.target.whole)
        queries = None if composed.fused is None else _unit(composed.fused)
        return ComposedEmbeddings(queries, targets, batch.image_ids)

    def batch_classification(self, embeddings: ComposedEmbeddings) -> Tensor:
        """L = −(1/B) Σᵢ log softmaxⱼ(s² cos(φ_fᵢ, φ_yⱼ))ᵢ, s a learned norm.

        Other pairs of the same target are no negatives.
        """
        return self.classification(*_pairs(embeddings))

    def soft_triplet(self, embeddings: ComposedEmbeddings) -> Tensor:
        """L = mean log(1 + exp(‖a − p‖² − ‖a − n‖²)), of three triplets a query and a target a.

        Positives p and negatives n are queries and targets; all have the learned norm s.
        """
        return self.triplet(*_pairs(embeddings), self.seed)

    def _image(self, images: Tensor | None, features: Tensor | None) -> Image | None:
        if images is not None:
            encoder = self.image.backbone
            assert isinstance(encoder, Encoder)
            local = encoder.local(images) if self.local else cached_local(encoder(images))
        elif features is not None:
            local = cached_local(features)
        else:
            return None
        return Image(local, self.image.head(local.pooled))

    def _text(self, batch: Batch) -> Tensor | None:
        if batch.tokens is not None:
            return self.text(*batch.texts)
        if batch.text_features is not None:
            return self.text(features=cached_local(batch.text_features).pooled)
        return None


def _unit(features: Tensor) -> Tensor:
    return F.normalize(precise(features), dim=1)


def _pairs(embeddings: ComposedEmbeddings) -> tuple[Tensor, Tensor, Tensor]:
    assert embeddings.queries is not None
    assert embeddings.targets is not None
    assert embeddings.image_ids is not None
    return embeddings.queries, embeddings.targets, embeddings.image_ids
