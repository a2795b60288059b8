"""Matryoshka embeddings: their first numbers are embeddings too."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
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
    objective: ObjectiveConfig = Field(InfoNCEConfig(), description="the objective at every width")
    builds: ClassVar[str] = "Matryoshka"

    @property
    def in_words(self) -> str:
        """Its kind and that of the objective at every width."""
        return f"{self.kind} of {self.objective.in_words}"

    @property
    def extra_sides(self) -> Sequence[str]:
        """Those of the objective at every width."""
        return self.objective.extra_sides

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _checked(self.widths, self.weights)
        if self.objective.kind == "matryoshka":
            raise ValueError("objective: it is one of a single width; kind: matryoshka is not")
        return self

    def check_embedding(self, dim: int) -> None:
        """Raise `ValueError` where the last width is not that of embeddings."""
        if self.widths[-1] != dim:
            raise ValueError(
                f"objective.widths: the last is {self.widths[-1]}; it must be embedding, {dim}"
            )

    def build_for(self, dim: int) -> Any:
        """Return all widths in one pass, or an objective for each where it does not take them."""
        del dim
        if self.objective.takes_widths:
            return self.build()
        return MatryoshkaOfEach(self.widths, self.weights, objective=self.objective.build_for)


def _checked(widths: Sequence[int], weights: Sequence[float] | None) -> Prefixes:
    if list(widths) != sorted(set(widths)):
        raise ValueError(f"widths must rise: {list(widths)} do not")
    if weights is not None and len(weights) != len(widths):
        raise ValueError(f"weights must be {len(widths)}, one a width, not {len(weights)}")
    return Prefixes(tuple(widths), tuple(weights or [1.0] * len(widths)))


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
        self.prefixes = _checked(widths, weights)
        self.objective = objective()
        self.monitors: dict[str, Tensor] = {}

    def forward(
        self, x: Tensor, y: Tensor, ids: Tensor | None = None, extra: Sequence[Extra] = ()
    ) -> Tensor:
        """Return this rank's share of the loss, (), of (pairs, dim), (pairs, dim), ids (pairs,).

        `extra` columns are (n, dim) too: they are negatives at every width.
        """
        if not extra:
            share: Tensor = self.objective(x, y, ids, prefixes=self.prefixes)
            return share
        # What describes pairs is whole at every width.
        given = {"descriptions": y} if isinstance(self.objective, SoftRelevance) else {}
        narrow = _at_widths(self.prefixes, x, y, extra)
        shares = [self.objective(*sides, ids, **more, **given) for *sides, more in narrow]
        return self.prefixes.weighted(torch.stack(shares))

    def at(self, width: int) -> nn.Module:
        """Return the objective of a width."""
        del width
        return self.objective


class MatryoshkaOfEach(nn.Module):
    """Matryoshka representation learning with an objective of its own for each width.

    L = Σ_w c_w L_w(x[:w] / |x[:w]|, y[:w] / |y[:w]|): of objectives that hold something of a width
    (proxies, as the classifiers of Kusupati et al. 2022, or averages over steps), or whose scores
    are not computed at several widths at once. Each takes a pass.
    """

    def __init__(
        self,
        widths: Sequence[int],
        weights: Sequence[float] | None = None,
        *,
        objective: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.prefixes = _checked(widths, weights)
        self.objectives = nn.ModuleList(objective(width) for width in widths)

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        ids: Tensor | None = None,
        extra: Sequence[Extra] = (),
        **given: Any,
    ) -> Tensor:
        """Return this rank's share of the loss, (), of (pairs, dim), (pairs, dim), ids (pairs,).

        `extra` columns are (n, dim); what else is given is given to the objective of every width.
        """
        narrow = zip(self.objectives, _at_widths(self.prefixes, x, y, extra), strict=True)
        shares = [one(*sides, ids, **more, **given) for one, (*sides, more) in narrow]
        return self.prefixes.weighted(torch.stack(shares))

    def at(self, width: int) -> nn.Module:
        """Return the objective of the narrowest width that has so many numbers."""
        return self.objectives[bisect_left(self.prefixes.widths, width)]


def _at_widths(
    prefixes: Prefixes, x: Tensor, y: Tensor, extra: Sequence[Extra]
) -> Iterator[tuple[Tensor, Tensor, dict[str, Any]]]:
    """Yield x and y (pairs, width), and extra columns if any, as unit vectors of each width."""
    for vectors in (x, y, *(one.columns for one in extra)):
        if vectors.shape[1:] != (prefixes.widths[-1],):
            raise ValueError(
                "the last of the widths must be that of the embeddings, "
                f"{tuple(vectors.shape[1:])}: it is {prefixes.widths[-1]}"
            )
    for width in prefixes.widths:
        columns = [replace(one, columns=_cut(one.columns, width)) for one in extra]
        yield _cut(x, width), _cut(y, width), {"extra": columns} if columns else {}


def _cut(vectors: Tensor, width: int) -> Tensor:
    return unit(precise(vectors[:, :width]))
