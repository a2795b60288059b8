"""Matryoshka embeddings: their first numbers are embeddings too."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from xmodal.objectives.config import ObjectiveConfig
from xmodal.objectives.extra import Extra
from xmodal.objectives.info_nce import InfoNCE, InfoNCEConfig
from xmodal.objectives.numerics import unit
from xmodal.objectives.pairwise.prefixes import Prefixes
from xmodal.objectives.pairwise.tiles import precise
from xmodal.objectives.soft_relevance import SoftRelevance


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
    takes_extra: ClassVar[bool] = True

    @property
    def extra_sides(self) -> Sequence[str]:
        """Those of the objective at every width."""
        return self.objective.extra_sides

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
    All widths are computed in one pass over the tiles of scores; with extra negatives, each in its
    own.
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

    def forward(
        self, x: Tensor, y: Tensor, ids: Tensor | None = None, extra: Sequence[Extra] = ()
    ) -> Tensor:
        """Return this rank's share of the loss, (), of (pairs, dim), (pairs, dim), ids (pairs,).

        `extra` columns are (n, dim) too: they are negatives at every width.
        """
        share: Tensor
        if extra:
            self._check_width(x, y, *(one.columns for one in extra))
            shares = [self._at(width, x, y, ids, extra) for width in self.prefixes.widths]
            share = self.prefixes.weighted(torch.stack(shares))
        else:
            share = self.objective(x, y, ids, prefixes=self.prefixes)
        return share

    def _check_width(self, *sides: Tensor) -> None:
        for vectors in sides:
            if vectors.shape[1:] != (self.prefixes.widths[-1],):
                raise ValueError(
                    "the last of the widths must be that of the embeddings, "
                    f"{tuple(vectors.shape[1:])}: it is {self.prefixes.widths[-1]}"
                )

    def _at(
        self, width: int, x: Tensor, y: Tensor, ids: Tensor | None, extra: Sequence[Extra]
    ) -> Tensor:
        def narrow(vectors: Tensor) -> Tensor:
            return unit(precise(vectors[:, :width]))

        # What describes pairs is whole at every width.
        given: dict[str, Any] = (
            {"descriptions": y} if isinstance(self.objective, SoftRelevance) else {}
        )
        columns = [replace(one, columns=narrow(one.columns)) for one in extra]
        share: Tensor = self.objective(narrow(x), narrow(y), ids, extra=columns, **given)
        return share
