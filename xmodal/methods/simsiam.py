"""SimSiam: two views of an image that predict each other (Chen and He 2021, arXiv 2011.10566).

An encoder f and a projector h make z = h(f(x)) of each of two views x¹ and x², a predictor q makes
p = q(z). The predictor's rate stays as it is while the others' falls (section 4.1), by a stage's
`schedule.constant`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.data.batch import Batch, BatchSpec
from xmodal.methods.collapse import CollapseWatch
from xmodal.methods.config import Retrieved, ViewsConfig
from xmodal.methods.method import Loss, Method, in_precision
from xmodal.models.projector import Predictor, Projector
from xmodal.models.tower import Build, Tower
from xmodal.objectives.self_distillation import NegativeCosine


class SimsiamConfig(ViewsConfig):
    """Two views of an image that predict each other (SimSiam: Chen and He 2021)."""

    kind: Literal["simsiam"] = "simsiam"
    text: ClassVar[None] = None  # type: ignore[misc]  # images alone
    builds: ClassVar[str] = "Simsiam"


@dataclass
class ViewEmbeddings:
    """Embeddings of two views, or of images for retrieval; the other is None."""

    images: Tensor | None = None  # (batch, …) float32, of length 1
    fused: Tensor | None = None  # as `images`, with their texts
    p1: Tensor | None = None  # (batch, dim)
    p2: Tensor | None = None  # (batch, dim)
    z1: Tensor | None = None  # (batch, dim)
    z2: Tensor | None = None  # (batch, dim)


class Simsiam(Method):
    """Each view predicts the other's projection."""

    contents = BatchSpec(views=2, captions=0)
    monitored: tuple[str, ...] = ("channel_std",)

    def __init__(
        self,
        image: Build,
        projection: int = 2048,
        prediction: int = 512,
        retrieved: Retrieved = "features",
        collapse: Build = CollapseWatch,
        *,
        vocabulary: int = 0,  # noqa: ARG002 - images alone
        bf16: bool = False,
    ) -> None:
        super().__init__(bf16=bf16)
        self.dim, self.retrieved, self.collapse = projection, retrieved, collapse()
        backbone = image()
        self.features = backbone.features
        self.image = Tower(backbone, nn.Identity())
        self.projector = Projector(self.features, self.dim)
        self.predictor = Predictor(self.dim, prediction)
        self.negative_cosine = NegativeCosine()

    @property
    def losses(self) -> Mapping[str, Loss]:
        """The one loss."""
        return {"self_distillation": self.self_distillation}

    def encode(self, batch: Batch) -> ViewEmbeddings:
        """Embed both views of each image, or, where there is one, images for retrieval."""
        with in_precision(self):
            if batch.second_images is None:
                return ViewEmbeddings(images=self._retrieved(self.image(batch.images)))
            z1, z2 = (
                self.projector(self.image(view)) for view in (batch.images, batch.second_images)
            )
            return ViewEmbeddings(p1=self.predictor(z1), p2=self.predictor(z2), z1=z1, z2=z2)

    def self_distillation(self, embeddings: ViewEmbeddings) -> Tensor:
        """L = ½ D(p¹, sg z²) + ½ D(p², sg z¹), D(p, z) = −cos(p, z), sg the stopped gradient."""
        found = embeddings.p1, embeddings.p2, embeddings.z1, embeddings.z2
        p1, p2, z1, z2 = (each for each in found if each is not None)
        share: Tensor = self.negative_cosine(p1, p2, z1, z2)
        return share

    def failure_reason(self, values: Mapping[str, float]) -> str | None:
        """Return the reason to stop, once projections have been collapsed for some logged steps."""
        return self.collapse.failure_reason(values.get("channel_std", 1.0), self.dim)

    def _retrieved(self, features: Tensor) -> Tensor:
        """Return the embeddings of images: their features u, or the projection z of these."""
        if self.retrieved == "projection":
            features = self.projector(features)
        return F.normalize(features.float(), dim=1)
