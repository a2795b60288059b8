"""PVSE: polysemous visual-semantic embedding (Song and Soleymani 2019, arXiv 1906.04402).

PIE-Nets on both sides give K embeddings of an image, from the positions of its feature map, and K
of a text, from its words. Two items are as alike as the best of their K × K pairs. The released
code has `diversity` and `discrepancy` for K > 1 only: omit them from the stages with one sense.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from xmodal.data.batch import Batch
from xmodal.methods.config import TowersConfig
from xmodal.methods.method import Loss, Method, in_precision
from xmodal.models.heads.mlp import Mlp
from xmodal.models.pie_net import PieNet, PieTower
from xmodal.models.tower import Build, projection
from xmodal.objectives.polysemous import diversity, maximum_mean_discrepancy
from xmodal.objectives.triplet import Triplet


class PvseConfig(TowersConfig):
    """Several embeddings of each image and text (PVSE: Song and Soleymani 2019)."""

    kind: Literal["pvse"] = "pvse"
    senses: PositiveInt = Field(2, description="K, embeddings of an image or a text")
    margin: PositiveFloat = Field(
        0.1, description="margin between the positive score and negative scores"
    )
    gamma: PositiveFloat = Field(0.5, description="of the kernel exp(-gamma d) of `discrepancy`")
    builds: ClassVar[str] = "Pvse"


@dataclass
class PolysemousEmbeddings:
    """K embeddings of each image and text, and what PIE-Net added to their pooled features."""

    images: Tensor | None  # (batch, K, dim) float32, of length 1
    texts: Tensor | None  # (batch, K, dim) float32, of length 1
    image_residuals: Tensor | None  # (batch, K, dim)
    text_residuals: Tensor | None  # (batch, K, dim)
    image_ids: Tensor | None  # (batch,) int64


class Pvse(Method):
    """Images v and texts t of the same pair close in one of their senses."""

    local = True
    monitored = ("collapse",)

    def __init__(
        self,
        image: Build,
        text: Build,
        image_head: Build | None = Mlp,
        text_head: Build | None = Mlp,
        embedding: int = 256,
        senses: int = 2,
        margin: float = 0.1,
        gamma: float = 0.5,
        *,
        vocabulary: int,
        bf16: bool = False,
    ) -> None:
        super().__init__(bf16=bf16)
        self.gamma = gamma
        images, texts = image(), text(vocabulary=vocabulary)
        self.image = PieTower(
            images,
            projection(image_head, images, embedding, "image"),
            PieNet(images.local_features, embedding, senses),
        )
        self.text = PieTower(
            texts,
            projection(text_head, texts, embedding, "text"),
            PieNet(texts.local_features, embedding, senses),
        )
        # Stages say when the loss changes: it has no warm-up of its own.
        self.hardest = Triplet(negatives="hardest", margin=margin, warmup=0)
        self.sum = Triplet(negatives="sum", margin=margin, warmup=0)

    @property
    def losses(self) -> Mapping[str, Loss]:
        """The losses of the paper, and a gentler form of the first."""
        return {
            "hardest": self.multiple_instance,
            "sum": self.multiple_instance_sum,
            "diversity": self.diversity,
            "discrepancy": self.discrepancy,
        }

    def encode(self, batch: Batch) -> PolysemousEmbeddings:
        """Embed each image and caption by itself."""
        images = texts = image_residuals = text_residuals = None
        with in_precision(self):
            if batch.images is not None or batch.image_features is not None:
                images, image_residuals = self.image(batch.images, features=batch.image_features)
            if batch.tokens is not None or batch.text_features is not None:
                texts, text_residuals = self.text(*batch.texts, features=batch.text_features)
        return PolysemousEmbeddings(images, texts, image_residuals, text_residuals, batch.image_ids)

    def multiple_instance(self, embeddings: PolysemousEmbeddings) -> Tensor:
        """L_mil: max_j [ρ + s(vᵢ, tⱼ) − s(vᵢ, tᵢ)]₊ + max_j [ρ + s(vⱼ, tᵢ) − s(vᵢ, tᵢ)]₊.

        The mean over the batch's pairs i; s is the best of K × K cosines.
        """
        return self._triplet(self.hardest, embeddings)

    def multiple_instance_sum(self, embeddings: PolysemousEmbeddings) -> Tensor:
        """L_mil with a sum over all negatives j in the place of each maximum: for a warm-up."""
        return self._triplet(self.sum, embeddings)

    def diversity(self, embeddings: PolysemousEmbeddings) -> Tensor:
        """L_div = E ‖offdiag(R̂ R̂ᵀ)‖ / K² of images and of texts, R̂ the K residuals' directions."""
        assert embeddings.image_residuals is not None
        assert embeddings.text_residuals is not None
        return diversity(embeddings.image_residuals) + diversity(embeddings.text_residuals)

    def discrepancy(self, embeddings: PolysemousEmbeddings) -> Tensor:
        """L_mmd = E k(v, v') − 2 E k(v, t) + E k(t, t'), k = exp(−γ ‖·‖), over all senses."""
        assert embeddings.images is not None
        assert embeddings.texts is not None
        return maximum_mean_discrepancy(embeddings.images, embeddings.texts, gamma=self.gamma)

    def _triplet(self, loss: Triplet, embeddings: PolysemousEmbeddings) -> Tensor:
        assert embeddings.images is not None
        assert embeddings.texts is not None
        assert embeddings.image_ids is not None
        return loss(embeddings.images, embeddings.texts, embeddings.image_ids)
