"""Pairs of a batch that are no negatives of each other though their ids differ."""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from xmodal.components.component import Buildable
from xmodal.objectives.pairs import LimitedIds
from xmodal.objectives.warmup import Scheduled


class FalseNegativesConfig(Buildable):
    """Pairs whose texts are alike are no negatives of each other."""

    similarity: float = Field(
        gt=-1,
        lt=1,
        description="cosine of two texts' embeddings above which neither pair is a negative of "
        "the other",
    )
    start: float = Field(
        0.1,
        ge=0,
        le=1,
        description="share of a stage before that begins: encoders that begin at random find all "
        "texts alike; 0 suits pretrained ones",
    )
    builds: ClassVar[str] = "FalseNegatives"


class FalseNegatives(Scheduled):
    """The limit above which a training's own embeddings of texts say that two are alike."""

    def __init__(self, *, similarity: float, start: float = 0.0) -> None:
        super().__init__()
        self.similarity, self.start = similarity, start

    def forward(self, ids: Tensor) -> Tensor | LimitedIds:
        """Return ids (pairs,) as objectives take them."""
        return ids if self.progress < self.start else LimitedIds(ids, self.similarity)
