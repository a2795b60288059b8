"""The recipe's `method`."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from xmodal.models.config import HeadConfig, ImageConfig, TextConfig
from xmodal.objectives.config import (
    AdversarialConfig,
    InfoNCEConfig,
    MetricPairsConfig,
    PairObjectiveConfig,
)
from xmodal.schema import Config


class TowersConfig(Config):
    """An encoder of images and one of texts, and their way into one space."""

    image: ImageConfig = Field(description="the image encoder")
    text: TextConfig = Field(description="the text encoder")
    image_head: HeadConfig | None = Field(
        HeadConfig(), description="projection of image features; null: they are the embedding"
    )
    text_head: HeadConfig | None = Field(
        HeadConfig(), description="projection of text features; null: they are the embedding"
    )
    embedding: PositiveInt = Field(256, description="dimensions of the common space")


class ClipConfig(TowersConfig):
    """Two towers into one space, matched by a contrastive objective (Radford et al. 2021)."""

    kind: Literal["clip"] = "clip"
    objective: PairObjectiveConfig = Field(InfoNCEConfig(), description="what training minimises")


class VseppConfig(TowersConfig):
    """Two towers and triplets with hard negatives (VSE++: Faghri et al. 2018)."""

    kind: Literal["vsepp"] = "vsepp"
    margin: PositiveFloat = Field(0.2, description="by how much a pair is to be more similar")


class MiteConfig(TowersConfig):
    """VSE++ against a classifier of modalities (MITE: Liu et al. 2019)."""

    kind: Literal["mite"] = "mite"
    margin: PositiveFloat = Field(0.2, description="by how much a pair is to be more similar")
    classifier: list[PositiveInt] = Field(
        [512, 256], description="widths of the classifier's hidden layers"
    )
    classifier_dropout: float = Field(0.5, ge=0, lt=1, description="dropout after each of them")
    adversary: AdversarialConfig = Field(AdversarialConfig(), description="the adversarial loss")


class PvseConfig(TowersConfig):
    """Several embeddings of each image and text (PVSE: Song and Soleymani 2019)."""

    kind: Literal["pvse"] = "pvse"
    senses: PositiveInt = Field(2, description="K, embeddings of an image or a text")
    margin: PositiveFloat = Field(0.1, description="by how much a pair is to be more similar")
    gamma: PositiveFloat = Field(0.5, description="of the kernel exp(-gamma d) of the discrepancy")


class UncsmConfig(TowersConfig):
    """Two pathways and a metric network, learned from classes (UNCSM: Qi et al. 2017)."""

    kind: Literal["uncsm"] = "uncsm"
    margin: PositiveFloat = Field(
        1.0,
        description="of the contrastive loss: distance where dissimilar pairs cost nothing",
    )
    triplet_margin: PositiveFloat = Field(
        1.0, description="by how much a negative's squared distance is to be greater"
    )
    positive_weight: PositiveFloat = Field(
        1.0, description="of the positive's squared distance in a triplet"
    )
    triplets: PositiveInt = Field(3, description="triplets drawn for each image and each text")
    metric: tuple[PositiveInt, PositiveInt] = Field(
        (1024, 256), description="widths of the metric network's two hidden layers"
    )
    interactions: bool = Field(
        False, description="show the metric network |v - t| and v * t beside v and t"
    )
    metric_pairs: MetricPairsConfig = Field(
        MetricPairsConfig(), description="what the metric network learns from"
    )


MethodConfig = Annotated[
    ClipConfig | VseppConfig | PvseConfig | MiteConfig | UncsmConfig, Field(discriminator="kind")
]
