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

from torch import Tensor, nn

from xmodal.data.batch import Batch
from xmodal.methods.config import DimConfig, TirgConfig
from xmodal.methods.method import Loss
from xmodal.methods.tirg import Composed, ComposedEmbeddings, Tirg
from xmodal.models.critics import ConcatenateCritic, EncodeAndDotCritic, PriorDiscriminator
from xmodal.models.encoder import Encoder
from xmodal.models.images import ImageEncoder
from xmodal.objectives.mutual_information import MutualInformation, SampledMutualInformation
from xmodal.objectives.pairwise.tiles import precise


@dataclass
class InformativeEmbeddings(ComposedEmbeddings):
    """Beside what is retrieved, what information is maximised of; at least float32."""

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

    def __init__(self, config: DimConfig, vocabulary: int, *, bf16: bool = False) -> None:
        super().__init__(config, vocabulary, bf16=bf16)
        self.text_with = config.text_with
        image, dim = self.image.backbone, config.embedding
        assert isinstance(image, ImageEncoder)
        whole = InformationByBoth if config.global_critic == "concatenate" else Information
        self.information = nn.ModuleDict(
            {
                "whole": whole(dim, dim, config),
                "map": Information(image.local_features, dim, config),
                "lower": Information(image.lower_features, dim, config),
            }
        )
        self.discriminator = PriorDiscriminator(dim)
        self.matching = config.prior.build()

    def image_encoder(self, config: TirgConfig | DimConfig) -> Encoder:
        """Return the encoder of sources and targets, which gives a lower map too."""
        assert isinstance(config, DimConfig)
        return ImageEncoder(config.image, config.level)

    @property
    def losses(self) -> Mapping[str, Loss]:
        """Those of TIRG, and those by which information is maximised."""
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
        """L_prior: σ(φ_f) against samples of [0, 1]^dim, as a discriminator tells them apart.

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

    def __init__(self, x_features: int, y_features: int, config: DimConfig) -> None:
        super().__init__()
        self.critic = EncodeAndDotCritic(x_features, y_features, config.units)
        self.estimate = MutualInformation(estimator=config.estimator)

    def forward(self, x: Tensor, y: Tensor, ids: Tensor) -> Tensor:
        """Return this rank's share, (), of x and y (batch, features) and ids (batch,).

        x may be maps, (batch, positions, features).
        """
        share: Tensor = self.estimate(*self.critic(x, y), ids)
        return share


class InformationByBoth(nn.Module):
    """−Î(x; y) by a critic that looks at both sides at once."""

    def __init__(self, x_features: int, y_features: int, config: DimConfig) -> None:
        super().__init__()
        self.critic = ConcatenateCritic(x_features, y_features, config.units)
        self.estimate = SampledMutualInformation(estimator=config.estimator)

    def forward(self, x: Tensor, y: Tensor, ids: Tensor) -> Tensor:
        """Return this rank's share, (), of x and y (batch, features) and ids (batch,)."""
        share: Tensor = self.estimate(x, y, ids, self.critic)
        return share


def _precise(features: Tensor | None) -> Tensor | None:
    return None if features is None else precise(features)


def _there(side: Tensor | None) -> Tensor:
    assert side is not None
    return side
