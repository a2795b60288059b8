"""The recipe's objectives."""

from typing import ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from xmodal.components.component import Component
from xmodal.components.config import Config


class ObjectiveConfig(Component):
    """What training minimises over the pairs of the global batch."""

    family: ClassVar[str] = "objective"


class TiledConfig(Config):
    """What objectives over all pairs of the global batch have in common."""

    tile: int | None = Field(
        None,
        ge=1,
        le=16384,
        description="rows and columns of scores computed at a time; null: as suits the device",
    )


class PairwiseConfig(TiledConfig):
    """What those of them have in common whose scores may be rounded."""

    products: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="precision that embeddings are gathered and multiplied in; bfloat16 is faster "
        "and rounds: gradients differ by a few percent (sums and own pairs stay in float32)",
    )


class InfoNCEConfig(PairwiseConfig, ObjectiveConfig):
    """InfoNCE (CLIP) over the global batch with a learned temperature."""

    kind: Literal["info_nce"] = "info_nce"
    scale: PositiveFloat = Field(1 / 0.07, description="inverse temperature at the start")
    max_scale: PositiveFloat = Field(100.0, description="greatest inverse temperature")
    direction: Literal["both", "rows", "columns"] = Field(
        "both", description="rows: each image among the texts; columns: each text among the images"
    )
    positives: Literal["pair", "same_id"] = Field(
        "pair", description="the pair alone, or all texts of the same image and all its images"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.positives == "same_id" and self.products != "float32":
            raise ValueError(
                "positives: same_id needs products: float32, for its positives are among the "
                "scores that would be rounded"
            )
        return self


class SigmoidConfig(PairwiseConfig, ObjectiveConfig):
    """Each pair judged by itself, own or not (SigLIP), with a learned temperature and bias."""

    kind: Literal["sigmoid"] = "sigmoid"
    scale: PositiveFloat = Field(10.0, description="inverse temperature at the start")
    bias: float = Field(
        -10.0,
        description="bias at the start: about −ln of the batch, for there are as many negatives to "
        "a positive; more (−3) suits small batches",
    )


class MarginConfig(TiledConfig, ObjectiveConfig):
    """Pairs of the same id close, all others a margin apart, in Euclidean distance."""

    kind: Literal["margin"] = "margin"
    margin: PositiveFloat = Field(1.0, description="distance from which negatives cost nothing")


class TripletConfig(PairwiseConfig, ObjectiveConfig):
    """Each pair a margin closer than negatives of its image and of its text (VSE++)."""

    kind: Literal["triplet"] = "triplet"
    negatives: Literal["sum", "hardest", "semi_hard"] = Field(
        "semi_hard",
        description="all; the closest, on which training often collapses; the closest that are "
        "less close than the pair",
    )
    margin: PositiveFloat = Field(0.2, description="by how much a pair is to be more similar")
    warmup: float = Field(
        0.1, ge=0, le=1, description="share of a stage that goes from all negatives to those above"
    )


class SampledTripletConfig(Config):
    """What objectives over triplets that are drawn by label have in common."""

    count: PositiveInt = Field(3, description="triplets drawn for each anchor")


class DoubleTripletConfig(SampledTripletConfig):
    """Images against texts and texts against images, in triplets drawn by label (UNCSM)."""

    kind: Literal["double_triplet"] = "double_triplet"
    margin: PositiveFloat = Field(1.0, description="by how much a negative is to be farther")
    positive_weight: PositiveFloat = Field(1.0, description="weight of the positive's distance")


class SoftTripletConfig(SampledTripletConfig):
    """Queries and targets together, in triplets drawn by label, without a margin (TIRG)."""

    kind: Literal["soft_triplet"] = "soft_triplet"
    norm: PositiveFloat | None = Field(
        None, description="norm of both sides at the start, learned; null: they are as they come"
    )


class MetricPairsConfig(Config):
    """Similar and dissimilar pairs, drawn by label, told apart by a metric network (UNCSM)."""

    kind: Literal["metric_pairs"] = "metric_pairs"
    count: PositiveInt = Field(
        3, description="similar pairs drawn for each image and text, and as many dissimilar ones"
    )
    loss: Literal["cross_entropy", "hinge"] = Field(
        "cross_entropy", description="of both classes; hinge: of the difference of their logits"
    )


class BatchClassificationConfig(PairwiseConfig):
    """Each query's own target among all targets of the batch (TIRG), with a learned norm."""

    kind: Literal["batch_classification"] = "batch_classification"
    norm: PositiveFloat = Field(4.0, description="norm of both sides at the start")


class MutualInformationConfig(PairwiseConfig, ObjectiveConfig):
    """The information that both sides of a pair share, as a critic estimates it (Deep InfoMax)."""

    kind: Literal["mutual_information"] = "mutual_information"
    estimator: Literal["jsd", "dv", "nwj", "info_nce"] = Field(
        "jsd", description="Jensen-Shannon; Donsker-Varadhan; Nguyen-Wainwright-Jordan; InfoNCE"
    )
    moving_average: float | None = Field(
        0.01,
        gt=0,
        lt=1,
        description="weight of a step in dv's moving average; null: gradients of each batch alone",
    )


class PriorConfig(Config):
    """Embeddings spread evenly, as a discriminator sees them (Deep InfoMax)."""

    weight: NonNegativeFloat = Field(1.0, description="weight of the encoders' part")
    penalty: NonNegativeFloat = Field(
        1.0, description="weight of the discriminator's squared gradient by its inputs"
    )


class AdversarialConfig(Config):
    """Embeddings that do not show whether they are of an image or of a text (MITE)."""

    encoders: Literal["reversal", "flipped", "confusion"] = Field(
        "reversal",
        description="what they are trained by: the classifier's gradient reversed; its loss for "
        "the wrong answers; its loss for answering one half",
    )
