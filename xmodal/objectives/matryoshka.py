"""Matryoshka embeddings: their first numbers are embeddings too."""

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from xmodal.objectives.config import ObjectiveConfig
from xmodal.objectives.info_nce import InfoNCE, InfoNCEConfig
from xmodal.objectives.pairwise.prefixes import Prefixes


class MatryoshkaConfig(ObjectiveConfig):
    """An objective at several widths of the same embeddings (Kusupati et al. 2022)."""

    kind: Literal["matryoshka"] = "matryoshka"
    widths: list[PositiveInt] = Field(
        [32, 64, 128, 256],
        min_length=1,
        description="numbers of an embedding that are embeddings by themselves, in rising order; "
        "the last is method.embedding",
    )
    weights: list[PositiveFloat] | None = Field(
        None, description="weight of each width's loss in the sum; null: 1 each"
    )
    objective: ObjectiveConfig = Field(
        InfoNCEConfig(), description="the objective at every width, one whose scores are cosines"
    )
    builds: ClassVar[str] = "Matryoshka"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_widths(self.widths, self.weights)
        if not self.objective.takes_widths:
            raise ValueError(
                f"objective: kind: {self.objective.kind} cannot be trained at several widths; use "
                f"one of {ObjectiveConfig.kinds_that('takes_widths')}"
            )
        return self

    def check_embedding(self, dim: int) -> None:
        """Raise `ValueError` where the last width is not that of embeddings."""
        if self.widths[-1] != dim:
            raise ValueError(
                f"objective.widths: the last is {self.widths[-1]}; it must be embedding, {dim}"
            )


def _check_widths(widths: Sequence[int], weights: Sequence[float] | None) -> None:
    if list(widths) != sorted(set(widths)):
        raise ValueError(f"widths must rise: {list(widths)} do not")
    if weights is not None and len(weights) != len(widths):
        raise ValueError(f"weights must be {len(widths)}, one a width, not {len(weights)}")


class Matryoshka(nn.Module):
    """Matryoshka representation learning (Kusupati et al. 2022, arXiv 2205.13147, equation 1).

    L = Σ_w c_w L(x[:w] / |x[:w]|, y[:w] / |y[:w]|) over widths w, of any objective L that takes
    widths; its temperature is the same at all of them. Scores are cosines, at the whole width too.
    All widths are computed in one pass over the tiles of scores.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int] = (32, 64, 128, 256),
        weights: Sequence[float] | None = None,
        objective: Callable[[], nn.Module] = InfoNCE,
    ) -> None:
        super().__init__()
        _check_widths(widths, weights)
        self.prefixes = Prefixes(tuple(widths), tuple(weights or [1.0] * len(widths)))
        self.objective = objective()
        self.monitors: dict[str, Tensor] = {}

    def forward(self, x: Tensor, y: Tensor, ids: Tensor | None = None) -> Tensor:
        """Return this rank's share of the loss, (), of (pairs, dim), (pairs, dim), ids (pairs,)."""
        share: Tensor = self.objective(x, y, ids, prefixes=self.prefixes)
        return share
