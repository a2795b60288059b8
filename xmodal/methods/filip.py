"""FILIP: fine-grained interactive language-image pre-training (Yao et al. 2022, arXiv 2111.07783).

Images are the positions of their last feature map, texts their words, each a vector of the common
space. Every position seeks its best word and every word its best position (late interaction, as
in ColBERT). The paper's augmentations and its dropping of tokens are left to the recipe.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from xmodal.data.batch import Batch
from xmodal.methods.config import TowersConfig
from xmodal.methods.method import Loss, Method, in_precision
from xmodal.methods.scores import Score
from xmodal.methods.set_scores import mean_of_best
from xmodal.methods.towers import Embeddings, pairs
from xmodal.models.encoder import Encoder, cached_local
from xmodal.models.heads.mlp import Mlp
from xmodal.models.tower import Build, projection
from xmodal.objectives.late_interaction import LateInteraction, LateInteractionConfig


class FilipConfig(TowersConfig):
    """Positions of images and words of texts, matched one by one (FILIP: Yao et al. 2022)."""

    kind: Literal["filip"] = "filip"
    words: PositiveInt = Field(32, description="words of a text that are matched, its first ones")
    objective: LateInteractionConfig = Field(
        LateInteractionConfig(), description="temperature and tiles of the objective"
    )
    builds: ClassVar[str] = "Filip"


class Filip(Method):
    """Images v and texts t as sets of unit vectors: (positions, dim) and (words, dim)."""

    local = True
    scores_sets = True
    monitored = ("temperature",)

    def __init__(
        self,
        image: Build,
        text: Build,
        image_head: Build | None = Mlp,
        text_head: Build | None = Mlp,
        embedding: int = 256,
        words: int = 32,
        objective: Build = LateInteraction,
        *,
        vocabulary: int,
        bf16: bool = False,
    ) -> None:
        super().__init__(bf16=bf16)
        self.words = words
        images, texts = image(), text(vocabulary=vocabulary)
        self.image = TokenTower(
            images, projection(image_head, images, embedding, "image", local=True)
        )
        self.text = TokenTower(texts, projection(text_head, texts, embedding, "text", local=True))
        self.loss = objective()

    @property
    def losses(self) -> Mapping[str, Loss]:
        """The one loss of the paper."""
        return {"contrastive": self.contrastive}

    @property
    def score(self) -> Score:
        """The mean of s_I and s_T: how well positions find words, and words positions."""
        return mean_of_best

    def encode(self, batch: Batch) -> Embeddings:
        """Embed the parts of each image and caption: (batch, positions or words, dim)."""
        images = texts = None
        with in_precision(self):
            if batch.images is not None or batch.image_features is not None:
                images = self.image(batch.images, features=batch.image_features)
            if batch.tokens is not None or batch.text_features is not None:
                texts = self.text(*batch.texts, features=batch.text_features)
                # As many in all micro-batches and ranks, whose captions may be of other lengths; a
                # negative number cuts.
                texts = F.pad(texts, (0, 0, 0, self.words - texts.shape[1]))
        return Embeddings(images, texts, batch.image_ids, batch.labels)

    def contrastive(self, embeddings: Embeddings) -> Tensor:
        """½ InfoNCE of images among texts by s_I + ½ InfoNCE of texts among images by s_T."""
        both = pairs(embeddings)
        share: Tensor = self.loss(both.images, both.texts, both.ids)
        return share


class TokenTower(nn.Module):
    """An encoder, and the head of each of its positions or words."""

    def __init__(self, backbone: Encoder, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, *inputs: Tensor, features: Tensor | None = None) -> Tensor:
        """Return (batch, parts, dim) float32, of length 1, 0 for padding.

        Cached features, as `cached_local` takes them, stand in for inputs.
        """
        local = self.backbone.local(*inputs) if features is None else cached_local(features)
        rows = self.head(local.rows.flatten(0, 1)).unflatten(0, local.mask.shape)
        return F.normalize(rows.float(), dim=2) * local.mask[..., None]
