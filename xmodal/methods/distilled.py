"""Distillation of a pretrained dual encoder into small towers.

The losses of CLIP-KD (Yang et al. 2024, arXiv 2307.12732) beside the contrastive one; with stored
embeddings of several augmentations, MobileCLIP's reinforced training (Vasu et al. 2024,
arXiv 2311.17049).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveInt
from torch import Tensor

from xmodal.data.batch import Batch
from xmodal.methods.clip import Clip, ClipConfig
from xmodal.methods.method import Loss
from xmodal.methods.towers import Embeddings
from xmodal.models.heads.mlp import Mlp
from xmodal.models.tower import Build
from xmodal.objectives import InfoNCE
from xmodal.objectives.affinity import Affinity, AffinityConfig
from xmodal.objectives.feature_distillation import FeatureDistillation


class DistilledConfig(ClipConfig):
    """Two towers that learn from a teacher's embeddings too (CLIP-KD, MobileCLIP)."""

    kind: Literal["distilled"] = "distilled"  # type: ignore[assignment]
    teacher_embedding: PositiveInt = Field(
        512, description="dimensions of the embeddings of data.teacher"
    )
    affinity: AffinityConfig = Field(
        AffinityConfig(), description="the loss `affinity`, of the scores of all pairs"
    )
    builds: ClassVar[str] = "Distilled"


@dataclass
class TaughtEmbeddings(Embeddings):
    """Embeddings of a batch beside the teacher's; without them in evaluation."""

    teacher_images: Tensor | None = None  # (batch, dim of the teacher) float32
    teacher_texts: Tensor | None = None  # as `teacher_images`


class Distilled(Clip):
    """CLIP's towers with three losses: their own, `affinity` and `features`."""

    monitored = (*Clip.monitored, "affinity_temperature")

    def __init__(
        self,
        image: Build,
        text: Build,
        image_head: Build | None = Mlp,
        text_head: Build | None = Mlp,
        embedding: int = 256,
        objective: Build = InfoNCE,
        *,
        teacher_embedding: int = 512,
        affinity: Build = Affinity,
        **others: Any,
    ) -> None:
        super().__init__(image, text, image_head, text_head, embedding, objective, **others)
        self.contents = replace(self.contents, teacher=teacher_embedding)
        self.affinity = affinity()
        self.features = FeatureDistillation(
            embedding=embedding, teacher_embedding=teacher_embedding
        )

    @property
    def losses(self) -> Mapping[str, Loss]:
        """The loss of CLIP, by the name of its objective, and those against the teacher."""
        return {
            **super().losses,
            "affinity": lambda embeddings: self.affinity(*_both(embeddings)),
            "features": lambda embeddings: self.features(*_both(embeddings)),
        }

    def encode(self, batch: Batch) -> TaughtEmbeddings:
        """Embed each image and caption by itself; the teacher's embeddings are the batch's."""
        own = super().encode(batch)
        return TaughtEmbeddings(**vars(own), **_teacher(batch))


def _teacher(batch: Batch) -> dict[str, Tensor | None]:
    return {"teacher_images": batch.teacher_images, "teacher_texts": batch.teacher_texts}


def _both(embeddings: TaughtEmbeddings) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the student's images and texts, and the teacher's."""
    assert embeddings.images is not None
    assert embeddings.texts is not None
    assert embeddings.teacher_images is not None
    assert embeddings.teacher_texts is not None
    return (
        embeddings.images,
        embeddings.texts,
        embeddings.teacher_images,
        embeddings.teacher_texts,
    )
