"""The recipe's `method`."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from xmodal.components.component import Component
from xmodal.components.config import Config
from xmodal.models.config import (
    Composition,
    HeadConfig,
    ImageEncoderConfig,
    TextEncoderConfig,
    TimmConfig,
)
from xmodal.objectives.adversarial import AdversarialConfig
from xmodal.objectives.config import ObjectiveConfig
from xmodal.objectives.info_nce import InfoNCEConfig
from xmodal.objectives.metric_pairs import MetricPairsConfig
from xmodal.objectives.prior import PriorConfig


class MethodConfig(Component):
    """A method: its encoders, and what they minimise."""

    family: ClassVar[str] = "method"
    if TYPE_CHECKING:
        image: Any
        text: Any  # None of methods without texts


class TowersConfig(MethodConfig):
    """An encoder of images and one of texts, and their way into one space."""

    image: ImageEncoderConfig = Field(description="the image encoder")
    text: TextEncoderConfig = Field(description="the text encoder")
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
    objective: ObjectiveConfig = Field(InfoNCEConfig(), description="what training minimises")


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


class CollapseConfig(Config):
    """What counts as collapsed: embeddings that have become one."""

    share: float = Field(
        0.25,
        ge=0,
        lt=1,
        description="of 1/sqrt(dim), the channel_std of directions that are spread: a run that "
        "stays below it stops; 0: none does",
    )
    readings: PositiveInt = Field(5, description="logged steps in a row that it is below for that")


class ViewsConfig(MethodConfig):
    """An image encoder that learns from two views of an image."""

    image: TimmConfig = Field(description="the image encoder")
    projection: PositiveInt = Field(2048, description="dimensions of the projections z")
    prediction: PositiveInt = Field(512, description="width of the predictor's hidden layer")
    retrieved: Literal["features", "projection"] = Field(
        "features", description="what images are retrieved by: what is projected, or z"
    )
    collapse: CollapseConfig = Field(
        CollapseConfig(), description="when a run stops for its embeddings have become one"
    )


class SimsiamConfig(ViewsConfig):
    """Two views of an image that predict each other (SimSiam: Chen and He 2021)."""

    kind: Literal["simsiam"] = "simsiam"
    text: ClassVar[None] = None  # type: ignore[misc]  # images alone


class PtfSimcmConfig(ViewsConfig):
    """SimSiam on images with their texts (PTF-SimCM: Yuan et al. 2022)."""

    kind: Literal["ptf_simcm"] = "ptf_simcm"
    text: TextEncoderConfig = Field(description="the text encoder")
    text_from: str | None = Field(
        None,
        description="run folder of another method, whose text encoder, head and vocabulary this "
        "one begins with in place of method.text; null: none",
    )
    text_head: HeadConfig | None = Field(
        None, description="projection of text features; null: they are a sentence's embedding"
    )
    sentence: PositiveInt = Field(384, description="dimensions of a sentence's embeddings")
    senses: PositiveInt = Field(2, description="K, embeddings of a sentence")
    choice: Literal["soft", "hard"] = Field(
        "soft", description="of the sense that fits an image: a mean by softmax, or the best"
    )
    temperature: PositiveFloat = Field(0.1, description="of that softmax")
    fusion: Literal["concatenation", "sum", "gated"] = Field(
        "concatenation", description="how an image and the sense become one"
    )
    margin: PositiveFloat = Field(0.1, description="of the loss `matching`")
    gamma: PositiveFloat = Field(0.5, description="of the kernel exp(-gamma d) of `discrepancy`")


class ComposedConfig(TowersConfig):
    """An image and a text that changes it, composed to find the image so changed."""

    embedding: PositiveInt = Field(512, description="dimensions of the common space")
    fusion: Composition = Field(
        "tirg",
        description="how source and text become a query: TIRG's gate and residual, on vectors or "
        "on the last map; a network on both; their sum; one side alone",
    )
    norm: PositiveFloat = Field(
        4.0, description="length of queries and targets in losses at the start; learned"
    )


class TirgConfig(ComposedConfig):
    """Composed queries against their targets (TIRG: Vo et al. 2019)."""

    kind: Literal["tirg"] = "tirg"


class DimConfig(ComposedConfig):
    """TIRG with mutual information maximised (Gu et al. 2021)."""

    kind: Literal["dim"] = "dim"
    image: TimmConfig = Field(description="the image encoder")
    level: NonNegativeInt = Field(
        2,
        description="of timm's intermediate maps the lower one: of a ResNet 0 is the stem's, "
        "1 to 4 are those of its stages",
    )
    text_with: Literal["target", "source", "difference"] = Field(
        "target",
        description="what texts share information with; difference: target less source",
    )
    estimator: Literal["jsd", "dv", "nwj", "info_nce"] = Field(
        "jsd", description="Jensen-Shannon; Donsker-Varadhan; Nguyen-Wainwright-Jordan; InfoNCE"
    )
    global_critic: Literal["dot", "concatenate"] = Field(
        "dot",
        description="judges a text and a whole image: both encoded and multiplied, against all "
        "pairs of the batch; or a network on both, against one other each",
    )
    units: PositiveInt = Field(512, description="width of the critics")
    prior: PriorConfig = Field(PriorConfig(), description="how composed features are spread evenly")
