"""CLIP: two towers into one space (Radford et al. 2021, arXiv 2103.00020).

With `objective: {kind: sigmoid}` it is SigLIP (Zhai et al. 2023, arXiv 2303.15343).
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from xmodal.components.config import Config
from xmodal.data.batch import Batch, BatchSpec
from xmodal.methods.config import ExtraNegativesConfig, TowersConfig
from xmodal.methods.method import Loss
from xmodal.methods.towers import Embeddings, TwoTowers, extra_negatives, pairs
from xmodal.models.heads.mlp import Mlp
from xmodal.models.tower import Build
from xmodal.objectives import GlobalContrastive, InfoNCE
from xmodal.objectives.config import ObjectiveConfig
from xmodal.objectives.embedding_queue import QueueConfig
from xmodal.objectives.extra import Seen
from xmodal.objectives.false_negatives import FalseNegativesConfig
from xmodal.objectives.info_nce import InfoNCEConfig


class PretrainedTowersConfig(Config):
    """Sources of towers that come from different pretrained models, each with its head."""

    image: str | None = Field(None, description="source of the image tower; null: none")
    text: str | None = Field(None, description="source of the text tower; null: none")


class ClipConfig(ExtraNegativesConfig, TowersConfig):
    """Two towers into one space, matched by a contrastive objective (Radford et al. 2021)."""

    kind: Literal["clip"] = "clip"
    pretrained: str | PretrainedTowersConfig | None = Field(
        None,
        description="model to begin with, a folder, a file or a name at a hub, which describes "
        "the other keys; or one for each tower, as {image: SOURCE, text: SOURCE}",
    )
    objective: ObjectiveConfig = Field(
        InfoNCEConfig(), description="the objective that training minimises"
    )
    queue: QueueConfig | None = Field(
        None, description="pairs of the last batches as further negatives; null: none"
    )
    false_negatives: FalseNegativesConfig | None = Field(
        None,
        description="pairs whose texts are alike are no negatives of each other; null: ids decide",
    )
    builds: ClassVar[str] = "Clip"

    @model_validator(mode="after")
    def _skips_false_negatives(self) -> Self:
        if self.false_negatives is None:
            return self
        if not self.objective.skips_alike:
            raise ValueError(
                f"false_negatives: {self.objective.in_words} goes by ids alone; remove it, or use "
                "as the objective itself info_nce (of positives: pair), sigmoid or triplet"
            )
        if self.queue and self.queue.of == "images":
            raise ValueError(
                "false_negatives: texts are compared, and a queue of images has none; use "
                "queue.of: both"
            )
        return self

    @model_validator(mode="after")
    def _uses_queue(self) -> Self:
        if self.queue and not self.takes_extra:
            raise ValueError(
                f"queue: {self.objective.in_words} takes no further negatives; remove it, or use "
                f"one of {ObjectiveConfig.kinds_that('takes_extra')}"
            )
        if self.queue and not set(self.queue.sides) <= set(self.takes_extra):
            (side,) = self.takes_extra
            raise ValueError(
                f"queue: the objective has extra negatives among {side} alone; use of: {side}"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _has_encoders(cls, given: Any) -> Any:
        if isinstance(given, dict) and not given.get("pretrained"):
            sides = [given.get(side) for side in ("image", "text")]
            if all(
                side is None or (isinstance(side, dict) and "kind" not in side) for side in sides
            ):
                raise ValueError(
                    "pretrained, the model to begin with, is missing, and image and text have no "
                    "kind; add method.pretrained=SOURCE (a folder, a file or a name at a hub)"
                )
        return given

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.objective.check_embedding(self.embedding)
        return self

    @property
    def takes_extra(self) -> Sequence[str]:
        """Those of its objective."""
        return self.objective.extra_sides

    @property
    def arguments(self) -> dict[str, Any]:
        """The fields by name, and the name of the loss: the kind of the objective."""
        kind = self.objective.kind
        given = super().arguments
        del given["pretrained"]
        given["objective"] = partial(self.objective.build_for, self.embedding)
        return given | {"loss_name": "contrastive" if kind == "info_nce" else kind}


class Clip(TwoTowers):
    """Images and texts of the same pair close, all others of the global batch apart."""

    # As far as the objective has them.
    monitored: tuple[str, ...] = ("temperature", "bias", "collapse", "classes")

    def __init__(
        self,
        image: Build,
        text: Build,
        image_head: Build | None = Mlp,
        text_head: Build | None = Mlp,
        embedding: int = 256,
        objective: Build = InfoNCE,
        queue: Build | None = None,
        false_negatives: Build | None = None,
        *,
        extra_negatives: Seen = "all",
        loss_name: str = "contrastive",
        vocabulary: int,
        bf16: bool = False,
    ) -> None:
        super().__init__(
            image, text, image_head, text_head, embedding, vocabulary=vocabulary, bf16=bf16
        )
        self.loss_name, self.seen = loss_name, extra_negatives
        self.loss = objective()
        self.queue = queue(embedding) if queue else None
        self.momentum = self.queue.momentum if self.queue else None
        self.false_negatives = false_negatives() if false_negatives else None
        if any(isinstance(part, GlobalContrastive) for part in self.loss.modules()):
            self.contents = BatchSpec(numbers=True)

    @property
    def losses(self) -> Mapping[str, Loss]:
        """The one loss, by the name of its objective."""
        return {self.loss_name: self._matching}

    def _matching(self, embeddings: Embeddings) -> Tensor:
        both = pairs(embeddings)
        given: dict[str, Any] = {}
        if self.contents.numbers:
            given["samples"] = embeddings.sample_numbers
        extra = extra_negatives(embeddings, self.seen)
        if self.queue:
            extra += self.queue.negatives()
        if extra:
            given["extra"] = extra
        ids = self.false_negatives(both.ids) if self.false_negatives else both.ids
        share: Tensor = self.loss(both.images, both.texts, ids, **given)
        if self.queue and not self.momentum and torch.is_grad_enabled():
            self.queue.push(both.images, both.texts, both.ids)
        return share

    def enqueue(self, batch: Batch) -> None:
        """Add the pairs of a micro-batch to the queue, as the weights of now embed them."""
        assert self.queue is not None
        if self.queue.has_started:
            found = self.encode(batch.only(self.queue.sides))
            self.queue.push(found.images, found.texts, found.image_ids)
