"""CLIP: two towers into one space (Radford et al. 2021, arXiv 2103.00020)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.data.batch import Batch
from xmodal.methods.config import ClipConfig
from xmodal.models.heads import Head, Tower
from xmodal.models.images import image_encoder
from xmodal.models.texts import text_encoder
from xmodal.objectives.build import build_objective
from xmodal.objectives.schedule import Scheduled

T = TypeVar("T")


@dataclass
class Embeddings:
    """What the towers make of a batch; a side that the batch lacks is None."""

    images: Tensor | None  # (batch, dim) float32, of length 1
    texts: Tensor | None  # (batch, dim) float32, of length 1
    image_ids: Tensor | None  # (batch,) int64


class Clip(nn.Module):
    """Images and texts of the same pair close, all others of the global batch apart."""

    def __init__(self, config: ClipConfig, vocabulary: int, *, bf16: bool = False) -> None:
        super().__init__()
        self.bf16 = bf16
        self.monitors: dict[str, Tensor] = {}  # what the log shows beside the losses
        image = image_encoder(config.image)
        text = text_encoder(config.text, vocabulary)
        self.image = Tower(image, Head(config.image_head, image.features, config.embedding))
        self.text = Tower(text, Head(config.text_head, text.features, config.embedding))
        kind = config.objective.kind
        self.loss_name = "contrastive" if kind == "info_nce" else kind
        self.loss = build_objective(config.objective)

    def encode(self, batch: Batch) -> Embeddings:
        """Embed each image and caption by itself, in bf16 where the run is."""
        images = texts = None
        device = next(self.parameters()).device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            if batch.images is not None or batch.image_features is not None:
                images = self.image(batch.images, features=batch.image_features)
            if batch.tokens is not None or batch.text_features is not None:
                texts = self.text(batch.tokens, batch.token_mask, features=batch.text_features)
        return Embeddings(_unit(images), _unit(texts), batch.image_ids)

    def objective(self, embeddings: Embeddings) -> dict[str, Tensor]:
        """Return this rank's shares of the losses over the global batch, by name."""
        images, texts, ids = embeddings.images, embeddings.texts, embeddings.image_ids
        assert images is not None
        assert texts is not None
        assert ids is not None
        share = self.loss(images, texts, ids)
        self.monitors = self.loss.monitors
        return {self.loss_name: share}

    def advance(self, progress: float) -> None:
        """Tell what follows training's progress that this share of the stage is done."""
        for module in self.modules():
            if isinstance(module, Scheduled):
                module.progress = progress

    def score(self, queries: Tensor, gallery: Tensor) -> Tensor:
        """Return cosines (queries, gallery) of embeddings (queries, dim) and (gallery, dim)."""
        return queries @ gallery.T

    def forward(self, compute: Callable[[Self], T]) -> T:
        """Return `compute(self)`: DeepSpeed prepares weights for what is called through here."""
        return compute(self)


def _unit(embeddings: Tensor | None) -> Tensor | None:
    return None if embeddings is None else F.normalize(embeddings.float(), dim=-1)
