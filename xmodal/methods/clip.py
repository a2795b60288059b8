"""CLIP: two towers into one space (Radford et al. 2021, arXiv 2103.00020).

With `objective: {kind: sigmoid}` it is SigLIP (Zhai et al. 2023, arXiv 2303.15343).
"""

from collections.abc import Mapping

from torch import Tensor

from xmodal.methods.config import ClipConfig
from xmodal.methods.method import Loss
from xmodal.methods.towers import Embeddings, TwoTowers, pairs


class Clip(TwoTowers):
    """Images and texts of the same pair close, all others of the global batch apart."""

    monitored = ("temperature", "bias", "collapse")  # as far as the objective has them

    def __init__(self, config: ClipConfig, vocabulary: int, *, bf16: bool = False) -> None:
        super().__init__(config, vocabulary, bf16=bf16)
        kind = config.objective.kind
        self.loss_name = "contrastive" if kind == "info_nce" else kind
        self.loss = config.objective.build()

    @property
    def losses(self) -> Mapping[str, Loss]:
        """The one loss, by the name of its objective."""
        return {self.loss_name: self._matching}

    def _matching(self, embeddings: Embeddings) -> Tensor:
        both = pairs(embeddings)
        share: Tensor = self.loss(both.images, both.texts, both.ids)
        return share
