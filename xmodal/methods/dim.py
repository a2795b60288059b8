"""Composed retrieval with mutual information maximised (Gu et al. 2021, arXiv 2103.06032).

A reconstruction on TIRG: the abstract says between what information is maximised, by Deep InfoMax
(Hjelm et al. 2019, arXiv 1808.06670); layers, critics and weights are ours, and so is that
critics' values are divided by √units, for exponentials to be taken of them. Î is an estimate of
mutual information, M_y the last map of the target y and M_yˡ that of a lower layer l, of HW
positions p. To TIRG's loss are added

- `text_image`: of the text and of the image, which mean nearly the same;
- `fusion_target`: of the composed features, the high level, and the target's lower map;
- `prior`: composed features spread evenly.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn

from xmodal.data.batch import Batch
from xmodal.methods.config import ComposedConfig
from xmodal.methods.method import Loss
from xmodal.methods.tirg import Composed, ComposedEmbeddings, Tirg
from xmodal.models.config import Composition, ImageEncoderConfig
from xmodal.models.critics import ConcatenateCritic, EncodeAndDotCritic, PriorDiscriminator
from xmodal.models.heads.mlp import Mlp
from xmodal.models.tower import Build
from xmodal.objectives import PriorMatching
from xmodal.objectives.mutual_information import MutualInformation, SampledMutualInformation
from xmodal.objectives.pairwise.tiles import precise
from xmodal.objectives.prior import PriorConfig

Estimator = Literal["jsd", "dv", "nwj", "info_nce"]


class DimConfig(ComposedConfig):
    """TIRG with mutual information maximised (Gu et al. 2021)."""

    kind: Literal["dim"] = "dim"
    image: ImageEncoderConfig = Field(description="the image encoder")
    level: NonNegativeInt = Field(
        2,
        description="number of the lower map among timm's intermediate maps: of a ResNet 0 is "
        "the stem's, 1 to 4 are those of its stages",
    )
    text_with: Literal["target", "source", "difference"] = Field(
        "target",
        description="image that texts share information with; difference: target minus source",
    )
    estimator: Estimator = Field(
        "jsd", description="Jensen-Shannon; Donsker-Varadhan; Nguyen-Wainwright-Jordan; InfoNCE"
    )
    global_critic: Literal["dot", "concatenate"] = Field(
        "dot",
        description="critic of a text and a whole image: both encoded and multiplied, with all "
        "pairs of the batch; or a network on both, with one negative each",
    )
    units: PositiveInt = Field(512, description="width of the critics")
    prior: PriorConfig = Field(
        PriorConfig(), description="loss that spreads composed features evenly"
    )
    builds: ClassVar[str] = "Dim"

    @model_validator(mode="after")
    def _has_levels(self) -> Self:
        if not self.image.has_levels:
            raise ValueError(
                f"image: kind: {self.image.kind} has no intermediate maps (level); use kind: timm"
            )
        return self


@dataclass
class InformativeEmbeddings(ComposedEmbeddings):
    """Embeddings of queries and targets, and the features of the losses; at least float32."""

    texts: Tensor | None  # φ_t (batch, dim)
    fused: Tensor | None  # φ_f (batch, dim)
    images: Tensor | None  # (batch, dim) φ of the image that `method.text_with` names
    maps: Tensor | None  # (batch, positions, channels) its last map
    lower: Tensor | None  # (batch, positions, channels) M_yˡ
    seen_ids: Tensor | None  # (batch,) int64, equal where `images` are


class Dim(Tirg):
    """TIRG whose features share information with the texts and with the targets' lower maps."""

    local = True
    lower = True
    monitored = ("norm", "prior_accuracy")

    def __init__(
        self,
        image: Build,
        text: Build,
        image_head: Build | None = Mlp,
        text_head: Build | None = Mlp,
        embedding: int = 512,
        fusion: Composition = "tirg",
        norm: float = 4.0,
        level: int = 2,
        text_with: Literal["target", "source", "difference"] = "target",
        estimator: Estimator = "jsd",
        global_critic: Literal["dot", "concatenate"] = "dot",
        units: int = 512,
        prior: Build = PriorMatching,
        *,
        vocabulary: int,
        bf16: bool = False,
    ) -> None:
        super().__init__(
            partial(image, level=level), text, image_head, text_head, embedding, fusion, norm,
            vocabulary=vocabulary, bf16=bf16,
        )  # fmt: skip
        self.text_with = text_with
        images: Any = self.image.backbone
        whole = InformationByBoth if global_critic == "concatenate" else Information
        self.information = nn.ModuleDict(
            {
                "whole": whole(embedding, embedding, units, estimator),
                "map": Information(images.local_features, embedding, units, estimator),
                "lower": Information(images.lower_features, embedding, units, estimator),
            }
        )
        self.discriminator = PriorDiscriminator(embedding)
        self.matching = prior()

    @property
    def losses(self) -> Mapping[str, Loss]:
        """Return the losses of TIRG, and those that maximise information."""
        return {
            **super().losses,
            "text_image": self.text_image,
            "fusion_target": self.fusion_target,
            "prior": self.prior,
        }

    def encode(self, batch: Batch) -> InformativeEmbeddings:
        """Embed each query and each target by itself."""
        composed = self.compose(batch)
        embeddings = self.retrieved(composed, batch)
        images, maps = self._beside_text(composed)
        lower = composed.target and composed.target.local.lower
        if lower is None:
            lower = batch.target_lower
        return InformativeEmbeddings(
            embeddings.queries,
            embeddings.targets,
            embeddings.image_ids,
            texts=_precise(composed.text),
            fused=_precise(composed.fused),
            images=_precise(images),
            maps=_precise(maps),
            lower=_precise(lower),
            seen_ids=self._seen_ids(batch),
        )

    def text_image(self, embeddings: InformativeEmbeddings) -> Tensor:
        """L_it = −[Î(φ_t; φ_y) + (1/HW) Σ_p Î(φ_t; M_y[p])].

        With `method.text_with: source` of x in place of y, with `difference` of y less x. Other
        texts of the same image, or of the same two, are no negatives.
        """
        texts, ids = _there(embeddings.texts), _there(embeddings.seen_ids)
        of_whole = self.information["whole"](_there(embeddings.images), texts, ids)
        of_map = self.information["map"](_there(embeddings.maps), texts, ids)
        return of_whole + of_map

    def fusion_target(self, embeddings: InformativeEmbeddings) -> Tensor:
        """L_fy = −(1/HW) Σ_p Î(φ_f; M_yˡ[p])."""
        lower, fused = _there(embeddings.lower), _there(embeddings.fused)
        return self.information["lower"](lower, fused, _there(embeddings.image_ids))

    def prior(self, embeddings: InformativeEmbeddings) -> Tensor:
        """L_prior: σ(φ_f) against samples of [0, 1]^dim, by a discriminator.

        The discriminator learns from it too.
        """
        return self.matching(_there(embeddings.fused), self.discriminator, self.seed)

    def _seen_ids(self, batch: Batch) -> Tensor | None:
        """Return ids, (batch,), of the images that texts share information with."""
        sources, targets = batch.source_ids, batch.image_ids
        if self.text_with == "difference":
            if sources is None or targets is None:
                return None
            # One id of two, which are hashes: the factor tells (a, b) from (b, a).
            return 31 * sources + targets
        return targets if self.text_with == "target" else sources

    def _beside_text(self, composed: Composed) -> tuple[Tensor | None, Tensor | None]:
        """Return features of the whole, and the last map, of what texts share information with."""
        source, target = composed.source, composed.target
        if self.text_with == "difference":
            if source is None or target is None:
                return None, None
            return target.whole - source.whole, target.local.rows - source.local.rows
        image = target if self.text_with == "target" else source
        return (None, None) if image is None else (image.whole, image.local.rows)


class Information(nn.Module):
    """−Î(x; y) by a critic that encodes both sides and multiplies them."""

    def __init__(self, x_features: int, y_features: int, units: int, estimator: Estimator) -> None:
        super().__init__()
        self.critic = EncodeAndDotCritic(x_features, y_features, units)
        self.estimate = MutualInformation(estimator=estimator)

    def forward(self, x: Tensor, y: Tensor, ids: Tensor) -> Tensor:
        """Return this rank's share, (), of x and y (batch, features) and ids (batch,).

        x may be maps, (batch, positions, features).
        """
        share: Tensor = self.estimate(*self.critic(x, y), ids)
        return share


class InformationByBoth(nn.Module):
    """−Î(x; y) by a critic that looks at both sides at once."""

    def __init__(self, x_features: int, y_features: int, units: int, estimator: Estimator) -> None:
        super().__init__()
        self.critic = ConcatenateCritic(x_features, y_features, units)
        self.estimate = SampledMutualInformation(estimator=estimator)

    def forward(self, x: Tensor, y: Tensor, ids: Tensor) -> Tensor:
        """Return this rank's share, (), of x and y (batch, features) and ids (batch,)."""
        share: Tensor = self.estimate(x, y, ids, self.critic)
        return share


def _precise(features: Tensor | None) -> Tensor | None:
    return None if features is None else precise(features)


def _there(side: Tensor | None) -> Tensor:
    assert side is not None
    return side
