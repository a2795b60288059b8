"""VSE++: hard negatives for visual-semantic embeddings (Faghri et al. 2018, arXiv 1707.05612).

Images i and captions c are unit vectors, their score s(i, c) is the inner product. A pair's
negatives are the other captions ĉ and the other images î of the batch.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, get_args

from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from xmodal.methods.config import ExtraNegativesConfig, TowersConfig
from xmodal.methods.method import Loss
from xmodal.methods.towers import Embeddings, TwoTowers, extra_negatives, pairs
from xmodal.models.heads.mlp import Mlp
from xmodal.models.tower import Build
from xmodal.objectives.extra import Seen
from xmodal.objectives.triplet import Negatives, Triplet


class VseppConfig(ExtraNegativesConfig, TowersConfig):
    """Two towers and triplets with hard negatives (VSE++: Faghri et al. 2018)."""

    kind: Literal["vsepp"] = "vsepp"
    margin: PositiveFloat = Field(
        0.2, description="margin between the positive score and negative scores"
    )
    builds: ClassVar[str] = "Vsepp"

    @property
    def takes_extra(self) -> Sequence[str]:
        """Both: all of its triplets take them."""
        return ("texts", "images")


class Vsepp(TwoTowers):
    """Each pair by a margin α more similar than its negatives."""

    monitored: tuple[str, ...] = ("collapse",)

    def __init__(
        self,
        image: Build,
        text: Build,
        image_head: Build | None = Mlp,
        text_head: Build | None = Mlp,
        embedding: int = 256,
        margin: float = 0.2,
        *,
        extra_negatives: Seen = "all",
        vocabulary: int,
        bf16: bool = False,
    ) -> None:
        super().__init__(
            image, text, image_head, text_head, embedding, vocabulary=vocabulary, bf16=bf16
        )
        self.seen = extra_negatives
        self.triplets = nn.ModuleDict(
            {
                # Stages say when the loss changes: it has no warm-up of its own.
                kind: Triplet(negatives=kind, margin=margin, warmup=0)
                for kind in get_args(Negatives)
            }
        )

    @property
    def losses(self) -> Mapping[str, Loss]:
        """The losses of the paper, and one between them."""
        return {
            "sum": self.sum_of_hinges,
            "hardest": self.max_of_hinges,
            "semi_hard": self.semi_hard,
        }

    def sum_of_hinges(self, embeddings: Embeddings) -> Tensor:
        """ℓ_SH(i, c) = Σ_ĉ [α − s(i, c) + s(i, ĉ)]₊ + Σ_î [α − s(i, c) + s(î, c)]₊.

        Here, as below, the mean over the batch's pairs; the paper's code takes their sum.
        """
        return self._triplet("sum", embeddings)

    def max_of_hinges(self, embeddings: Embeddings) -> Tensor:
        """ℓ_MH(i, c) = max_ĉ [α + s(i, ĉ) − s(i, c)]₊ + max_î [α + s(î, c) − s(i, c)]₊."""
        return self._triplet("hardest", embeddings)

    def semi_hard(self, embeddings: Embeddings) -> Tensor:
        """ℓ_MH among negatives that score less than the pair, as far as there are such.

        FaceNet's choice (Schroff et al. 2015), which does not collapse where ℓ_MH does.
        """
        return self._triplet("semi_hard", embeddings)

    def _triplet(self, kind: str, embeddings: Embeddings) -> Tensor:
        both = pairs(embeddings)
        extra = extra_negatives(embeddings, self.seen)
        share: Tensor = self.triplets[kind](both.images, both.texts, both.ids, extra)
        return share
