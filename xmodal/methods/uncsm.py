"""UNCSM: a unified network for cross-media similarity metric (Qi et al. 2017, arXiv 1704.04333).

A reconstruction: the abstract says what the parts and stages are; sizes, and that the double
triplet loss sums both directions, are ours. Images v and texts t are unit vectors, d their
Euclidean distance, y their classes (of a sample with several labels the first). The stages of
xmodal/recipes/uncsm.yaml are

1. the two pathways, pretrained: `contrastive`;
2. the two pathways, fine-tuned for relative similarity: `double_triplet`;
3. the metric network alone: `metric`;
4. all together: `double_triplet` and `metric`.

Retrieval is by distance until a metric network has been trained, and then by its similarity.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from xmodal.data.batch import BatchSpec
from xmodal.methods.config import TowersConfig
from xmodal.methods.method import Loss
from xmodal.methods.scores import Score, dot_product
from xmodal.methods.towers import Embeddings, TwoTowers, classes
from xmodal.models.heads.mlp import Mlp
from xmodal.models.metric_network import MetricNetwork
from xmodal.models.tower import Build
from xmodal.objectives import MetricPairs
from xmodal.objectives.double_triplet import DoubleTriplet
from xmodal.objectives.margin import Margin
from xmodal.objectives.metric_pairs import MetricPairsConfig


class UncsmConfig(TowersConfig):
    """Two pathways and a metric network, learned from classes (UNCSM: Qi et al. 2017)."""

    kind: Literal["uncsm"] = "uncsm"
    margin: PositiveFloat = Field(
        1.0,
        description="margin of the contrastive loss: distance from which dissimilar pairs cost "
        "nothing",
    )
    triplet_margin: PositiveFloat = Field(
        1.0, description="margin between squared distances of negatives and positives"
    )
    positive_weight: PositiveFloat = Field(
        1.0, description="weight of the positive's squared distance in a triplet"
    )
    triplets: PositiveInt = Field(3, description="triplets drawn for each image and each text")
    metric: tuple[PositiveInt, PositiveInt] = Field(
        (1024, 256), description="widths of the metric network's two hidden layers"
    )
    interactions: bool = Field(
        False, description="show the metric network |v - t| and v * t beside v and t"
    )
    metric_pairs: MetricPairsConfig = Field(
        MetricPairsConfig(), description="loss of the metric network"
    )
    builds: ClassVar[str] = "Uncsm"


class Uncsm(TwoTowers):
    """Images and texts of the same class close, by a similarity that is learned as well."""

    contents = BatchSpec(labels=True)
    learned_score = True
    monitored = ("metric_accuracy",)
    metric_trained: Tensor  # (1,) bool

    def __init__(
        self,
        image: Build,
        text: Build,
        image_head: Build | None = Mlp,
        text_head: Build | None = Mlp,
        embedding: int = 256,
        margin: float = 1.0,
        triplet_margin: float = 1.0,
        positive_weight: float = 1.0,
        triplets: int = 3,
        metric: tuple[int, int] = (1024, 256),
        metric_pairs: Build = MetricPairs,
        *,
        interactions: bool = False,
        vocabulary: int,
        bf16: bool = False,
    ) -> None:
        super().__init__(
            image, text, image_head, text_head, embedding, vocabulary=vocabulary, bf16=bf16
        )
        self.metric = MetricNetwork(embedding, metric, interactions=interactions)
        self.contrastive = Margin(margin=margin)
        self.double_triplet = DoubleTriplet(
            margin=triplet_margin, positive_weight=positive_weight, count=triplets
        )
        self.metric_pairs = metric_pairs()
        # In every checkpoint, so that it is searched as far as it was trained.
        self.register_buffer("metric_trained", torch.zeros(1, dtype=torch.bool))

    @property
    def losses(self) -> Mapping[str, Loss]:
        """The losses of the paper."""
        return {
            "contrastive": self.contrastive_loss,
            "double_triplet": self.double_triplet_loss,
            "metric": self.metric_loss,
        }

    def contrastive_loss(self, embeddings: Embeddings) -> Tensor:
        """L_con = (1/2B) Σᵢⱼ (dᵢⱼ² if yᵢ = yⱼ, else [m − dᵢⱼ]₊²) over all B² image-text pairs."""
        both = classes(embeddings)
        return self.contrastive(both.images, both.texts, both.ids)

    def double_triplet_loss(self, embeddings: Embeddings) -> Tensor:
        """L_dt = (1/2S) Σ [m + α d(v, t⁺)² − d(v, t⁻)²]₊ + (1/2S) Σ [m + α d(t, v⁺)² − d(t, v⁻)²]₊.

        Of each direction S triplets, drawn by class at random within the global batch.
        """
        both = classes(embeddings)
        return self.double_triplet(both.images, both.texts, both.ids, self.seed)

    def metric_loss(self, embeddings: Embeddings) -> Tensor:
        """L_met = −(1/|P|) Σ log p(1[yᵢ = yⱼ] | vᵢ, tⱼ), as many similar as dissimilar pairs P."""
        both = classes(embeddings)
        return self.metric_pairs(both.images, both.texts, both.ids, self.metric, self.seed)

    def begin_stage(self, active_losses: tuple[str, ...]) -> None:
        """Set the losses of the stage; once the metric is among them, retrieval uses it."""
        super().begin_stage(active_losses)
        if "metric" in active_losses:
            self.metric_trained.fill_(True)

    @property
    def score(self) -> Score:
        """The log-odds of similar, (a, b), of images (a, dim) and texts (b, dim).

        Before the metric network is trained, their cosine, which orders as −d does.
        """
        return Score(self.metric.all_pairs) if self.metric_trained else dot_product

    def score_pairs(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return the log-odds of similar, (n,), of pairs: images (n, dim) and texts (n, dim)."""
        logits = self.metric(images, texts)
        return logits[:, 1] - logits[:, 0]

    @property
    def shortlist(self) -> Score | None:
        """The distance, once a metric network scores the shortlist."""
        return dot_product if self.metric_trained else None
