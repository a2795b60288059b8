"""SimSiam: what two views of an image have in common (Chen and He 2021, arXiv 2011.10566).

An encoder f and a projector h make z = h(f(x)) of each of two views x¹ and x², a predictor q makes
p = q(z). The predictor's rate stays as it is while the others' falls (section 4.1), by a stage's
`schedule.constant`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.data.batch import Batch, BatchSpec
from xmodal.methods.config import PtfSimcmConfig, SimsiamConfig
from xmodal.methods.method import Loss, Method, in_precision
from xmodal.models.heads import Tower
from xmodal.models.images import image_encoder
from xmodal.models.projector import Predictor, Projector
from xmodal.objectives.self_distillation import NegativeCosine


@dataclass
class ViewEmbeddings:
    """What is made of two views, or of images as they are retrieved; the other is None."""

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

    def __init__(self, config: SimsiamConfig | PtfSimcmConfig, *, bf16: bool = False) -> None:
        super().__init__(bf16=bf16)
        self.dim, self.retrieved, self.collapse = (
            config.projection,
            config.retrieved,
            config.collapse,
        )
        backbone = image_encoder(config.image)
        self.features = backbone.features
        self.image = Tower(backbone, nn.Identity())
        self.projector = Projector(self.features, self.dim)
        self.predictor = Predictor(self.dim, config.prediction)
        self.negative_cosine = NegativeCosine()
        self.collapsed = 0  # logged steps in a row

    @property
    def losses(self) -> Mapping[str, Loss]:
        """The one loss."""
        return {"self_distillation": self.self_distillation}

    def encode(self, batch: Batch) -> ViewEmbeddings:
        """Embed both views of each image, or, where there is one, what images are retrieved by."""
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

    def failure_reason(self) -> str | None:
        """Tell that projections have become one, once they have been for some logged steps."""
        std = float(self.monitors.get("channel_std", 1.0))
        healthy = self.dim**-0.5
        self.collapsed = self.collapsed + 1 if std < self.collapse.share * healthy else 0
        if self.collapsed < self.collapse.readings:
            return None
        # As many digits as it takes to tell them apart.
        digits = next(n for n in range(2, 18) if f"{std:.{n}g}" != f"{healthy:.{n}g}")
        return (
            f"embeddings have collapsed into one: channel_std is {std:.{digits}g}, where "
            f"directions that are spread have {healthy:.{digits}g} (1/√dim), at "
            f"{self.collapsed} logged steps in a row; train with a lower optimizer.lr, a "
            "larger data.batch_size or other data.augment in another run=DIR (method.collapse "
            "says what counts as collapsed)"
        )

    def _retrieved(self, features: Tensor) -> Tensor:
        """Return what stands for images: their features u, or z, the projection of these."""
        if self.retrieved == "projection":
            features = self.projector(features)
        return F.normalize(features.float(), dim=1)
