"""PTF-SimCM: similar images, by themselves and with their texts (Yuan et al. 2022).

Complexity 2022, 2343707, doi 10.1155/2022/2343707. A reconstruction: the abstract says that it is
like SimSiam, that an image's own text is fused in late, that the text is encoded by a cross-modal
model, and that a sentence's PIE-Net sees to its several senses; sizes, weights and the form of the
fusion are ours. Of each of two views x¹ and x² of an image

1. the image encoder makes features f, the text tower, which as a rule stays as it was trained
   before, and PIE-Net make K senses s₁ … s_K of a caption;
2. the image chooses among the senses, s̃ = Σₖ wₖ sₖ, w = softmaxₖ(cos(W f, sₖ) / τ);
3. fusion makes u of f and s̃, and SimSiam's projector and predictor z = h(u) and p = q(z).

A caption that is the same in both views would solve the task alone: the views have different ones
where the image has several, and `data.text_dropout` leaves texts out at times. A learned stand-in
takes the place of the sense then, and of images that are retrieved without a text.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from xmodal.data.batch import Batch, BatchSpec
from xmodal.methods.collapse import CollapseWatch
from xmodal.methods.config import Retrieved, ViewsConfig
from xmodal.methods.method import Loss, in_precision
from xmodal.methods.simsiam import Simsiam, ViewEmbeddings
from xmodal.models.config import HeadConfig, TextEncoderConfig
from xmodal.models.late_fusion import MIXES, LateFusion, SenseChoice
from xmodal.models.pie_net import PieNet, PieTower
from xmodal.models.tower import Build
from xmodal.models.tower import projection as project
from xmodal.objectives.polysemous import diversity, maximum_mean_discrepancy
from xmodal.objectives.triplet import Triplet


class PtfSimcmConfig(ViewsConfig):
    """SimSiam on images with their texts (PTF-SimCM: Yuan et al. 2022)."""

    kind: Literal["ptf_simcm"] = "ptf_simcm"
    text: TextEncoderConfig = Field(description="the text encoder")
    text_from: str | None = Field(
        None,
        description="run folder of another method; its text encoder, head and vocabulary "
        "replace method.text; null: none",
    )
    text_head: HeadConfig | None = Field(
        None, description="projection of text features; null: they are a sentence's embedding"
    )
    sentence: PositiveInt = Field(384, description="dimensions of a sentence's embeddings")
    senses: PositiveInt = Field(2, description="K, embeddings of a sentence")
    choice: Literal["soft", "hard"] = Field(
        "soft", description="choice of the sense that fits an image: a mean by softmax, or the best"
    )
    temperature: PositiveFloat = Field(0.1, description="temperature of that softmax")
    fusion: Literal["concatenation", "sum", "gated"] = Field(
        "concatenation", description="fusion of an image and a sense"
    )
    margin: PositiveFloat = Field(0.1, description="margin of the loss `matching`")
    gamma: PositiveFloat = Field(
        0.5, description="gamma of the kernel exp(-gamma d) of `discrepancy`"
    )
    builds: ClassVar[str] = "PtfSimcm"

    @property
    def arguments(self) -> dict[str, Any]:
        """Fields by name, without the source of the text tower."""
        given = super().arguments
        del given["text_from"]
        return given


@dataclass
class FusedEmbeddings(ViewEmbeddings):
    """Embeddings of two views and their captions, or of images and texts to retrieve."""

    looks: Tensor | None = None  # (batch, 2, dim) of length 1, W f of each view
    senses: Tensor | None = None  # (batch, 2, K, dim) of length 1, of each view's caption
    residuals: Tensor | None = None  # as `senses`, what PIE-Net added for each
    image_ids: Tensor | None = None  # (batch,) int64


class PtfSimcm(Simsiam):
    """SimSiam on images that their captions are fused into."""

    contents = BatchSpec(views=2, captions=2)
    local = True
    monitored = ("channel_std", "collapse")  # the latter of `matching`

    def __init__(
        self,
        image: Build,
        text: Build,
        projection: int = 2048,
        prediction: int = 512,
        retrieved: Retrieved = "features",
        collapse: Build = CollapseWatch,
        text_head: Build | None = None,
        sentence: int = 384,
        senses: int = 2,
        choice: Literal["soft", "hard"] = "soft",
        temperature: float = 0.1,
        fusion: Literal["concatenation", "sum", "gated"] = "concatenation",
        margin: float = 0.1,
        gamma: float = 0.5,
        *,
        vocabulary: int,
        bf16: bool = False,
    ) -> None:
        super().__init__(image, projection, prediction, retrieved, collapse, bf16=bf16)
        self.gamma = gamma
        texts = text(vocabulary=vocabulary)
        self.text = PieTower(
            texts,
            project(text_head, texts, sentence, "text"),
            PieNet(texts.local_features, sentence, senses),
        )
        self.fusion = LateFusion(
            SenseChoice(self.features, sentence, temperature, hard=choice == "hard"),
            MIXES[fusion](self.features, sentence),
            sentence,
        )
        self.triplet = Triplet(negatives="hardest", margin=margin, warmup=0)

    @property
    def losses(self) -> Mapping[str, Loss]:
        """SimSiam's loss, PIE-Net's, and those of a text tower that is trained."""
        return {
            **super().losses,
            "diversity": self.diversity,
            "discrepancy": self.discrepancy,
            "matching": self.matching,
        }

    def encode(self, batch: Batch) -> FusedEmbeddings:
        """Embed both views with their captions, or, where there is one, images and their texts."""
        with in_precision(self):
            if batch.second_images is None:
                return self._retrieve(batch)
            dropped = [None, None] if batch.text_dropped is None else batch.text_dropped.unbind(1)
            both = (
                (batch.images, batch.texts, batch.text_features),
                (batch.second_images, batch.second_texts, batch.second_text_features),
            )
            views = []
            for (images, texts, features), without_text in zip(both, dropped, strict=True):
                senses, residuals = self.text(*texts, features=features)
                fused, looks = self.fusion(self.image(images), senses, without_text)
                z = self.projector(fused)
                views.append((self.predictor(z), z, looks, senses, residuals))
        (p1, p2), (z1, z2), *others = zip(*views, strict=True)
        looks, senses, residuals = (torch.stack(of_views, 1) for of_views in others)
        return FusedEmbeddings(
            p1=p1, p2=p2, z1=z1, z2=z2,
            looks=looks, senses=senses, residuals=residuals, image_ids=batch.image_ids,
        )  # fmt: skip

    def diversity(self, embeddings: FusedEmbeddings) -> Tensor:
        """L_div = E ‖offdiag(R̂ R̂ᵀ)‖ / K² of both captions, R̂ the K residuals' directions."""
        assert embeddings.residuals is not None
        return diversity(embeddings.residuals.flatten(0, 1))

    def discrepancy(self, embeddings: FusedEmbeddings) -> Tensor:
        """L_mmd = E k(w, w') − 2 E k(w, s) + E k(s, s'), k = exp(−γ ‖·‖), of w = W f and senses s.

        Of both views at once.
        """
        assert embeddings.looks is not None
        assert embeddings.senses is not None
        return maximum_mean_discrepancy(
            embeddings.looks, embeddings.senses.flatten(1, 2), gamma=self.gamma
        )

    def matching(self, embeddings: FusedEmbeddings) -> Tensor:
        """L_mil of W f and captions, the mean of both views: with c the best of K cosines,

        max_j [ρ + c(i, j) − c(i, i)]₊ + max_j [ρ + c(j, i) − c(i, i)]₊ over the batch's pairs i.
        """
        assert embeddings.looks is not None
        assert embeddings.senses is not None
        assert embeddings.image_ids is not None
        views = zip(embeddings.looks.split(1, 1), embeddings.senses.unbind(1), strict=True)
        shares = [self.triplet(look, senses, embeddings.image_ids) for look, senses in views]
        return torch.stack(shares).mean()

    def _retrieve(self, batch: Batch) -> FusedEmbeddings:
        features = self.image(batch.images)
        alone, _ = self.fusion(features)
        if batch.tokens is None and batch.text_features is None:
            return FusedEmbeddings(images=self._retrieved(alone))
        senses, _ = self.text(*batch.texts, features=batch.text_features)
        fused, _ = self.fusion(features, senses)
        return FusedEmbeddings(images=self._retrieved(alone), fused=self._retrieved(fused))
