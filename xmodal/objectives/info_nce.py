"""InfoNCE: each pair's score against those of the batch."""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor, nn

from xmodal.objectives.config import MatmulDtype, ObjectiveConfig, PairwiseConfig, check_choice
from xmodal.objectives.extra import SIDES, Extra, Side, check_sides
from xmodal.objectives.learned_scale import clamped_exp
from xmodal.objectives.negatives import add_log_sum_exp
from xmodal.objectives.numerics import log1p_exp
from xmodal.objectives.pairs import Pairs
from xmodal.objectives.pairwise import log_sum_exp
from xmodal.objectives.pairwise.prefixes import Prefixes
from xmodal.objectives.pairwise.tiles import NoNegatives

Direction = Literal["both", "rows", "columns"]
Positives = Literal["pair", "same_id"]


class InfoNCEConfig(PairwiseConfig, ObjectiveConfig):
    """InfoNCE (CLIP) over the global batch with a learned temperature."""

    kind: Literal["info_nce"] = "info_nce"
    scale: PositiveFloat = Field(1 / 0.07, description="initial inverse temperature")
    max_scale: PositiveFloat = Field(100.0, description="greatest inverse temperature")
    direction: Direction = Field(
        "both", description="rows: images among texts; columns: texts among images"
    )
    positives: Positives = Field("pair", description="the pair alone, or all pairs of the same id")
    builds: ClassVar[str] = "InfoNCE"

    @property
    def skips_alike(self) -> bool:
        """Where the pair is the only positive."""
        return self.positives == "pair"

    takes_extra: ClassVar[bool] = True

    @property
    def extra_sides(self) -> Sequence[str]:
        """Those of its direction."""
        sides = {"both": super().extra_sides, "rows": ("texts",), "columns": ("images",)}
        return sides[self.direction]

    takes_widths: ClassVar[bool] = True

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_precision(self.positives, self.matmul_dtype)
        return self


def _check_precision(positives: str, matmul_dtype: str) -> None:
    if positives == "same_id" and matmul_dtype != "float32":
        raise ValueError(
            "positives: same_id needs matmul_dtype: float32, because its positives are among the "
            "scores that would be rounded"
        )


class InfoNCE(nn.Module):
    """InfoNCE with a learned temperature (van den Oord et al. 2018, CLIP: Radford et al. 2021).

    By rows, L = −(1/B) Σᵢ log softmaxⱼ(s xᵢ·yⱼ)ᵢ over the global batch of B pairs, s = eᵃ with a
    learned; by columns with x and y swapped; the symmetric form is the mean of both.
    Other pairs of the same id are no negatives. As positives (Khosla et al. 2020, equation 2),
    each counts the same, and the softmax is over all pairs:
    L = −(1/B) Σᵢ (1/|Pᵢ|) Σ_{p∈Pᵢ} log softmaxⱼ(s xᵢ·yⱼ)_p.
    """

    def __init__(
        self,
        *,
        scale: float = 1 / 0.07,
        max_scale: float = 100.0,
        direction: Direction = "both",
        positives: Positives = "pair",
        matmul_dtype: MatmulDtype = "float32",
        tile: int | None = None,
    ) -> None:
        super().__init__()
        check_choice("direction", direction, Direction)
        check_choice("positives", positives, Positives)
        check_choice("matmul_dtype", matmul_dtype, MatmulDtype)
        _check_precision(positives, matmul_dtype)
        self.max_scale, self.direction, self.positives = max_scale, direction, positives
        self.matmul_dtype, self.tile = matmul_dtype, tile
        # One element rather than none: ZeRO cannot partition a parameter without dimensions.
        self.log_scale = nn.Parameter(torch.tensor([math.log(scale)]))
        self.monitors: dict[str, Tensor] = {}

    @property
    def scale(self) -> Tensor:
        """The inverse temperature s, (1,), at most `max_scale`."""
        return clamped_exp(self.log_scale, self.max_scale)

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        ids: Tensor | None = None,
        extra: Sequence[Extra] = (),
        prefixes: Prefixes | None = None,
    ) -> Tensor:
        """Return this rank's share of the loss, (), of (pairs, dim), (pairs, dim), ids (pairs,).

        `extra` columns beside y are in the softmax of each row, those beside x in each column's.
        """
        check_sides(extra, self._sides, f"info_nce of {self.direction}")
        scale = self.scale
        self.monitors = {"temperature": 1 / scale.detach()}
        alike = self.positives == "pair"
        pairs = Pairs.of(x, y, ids, self.matmul_dtype, extra, prefixes, skips_alike=alike)
        costs_of = _many_positives if self.positives == "same_id" else _one_positive
        costs = costs_of(pairs, scale, self.tile)
        return pairs.mean(torch.stack(costs)[self._directions].mean(0))

    @property
    def _sides(self) -> Sequence[Side]:
        return {"both": SIDES, "rows": SIDES[:1], "columns": SIDES[1:]}[self.direction]

    @property
    def _directions(self) -> slice:
        return {"both": slice(2), "rows": slice(1), "columns": slice(1, 2)}[self.direction]


def _one_positive(pairs: Pairs, scale: Tensor, tile: int | None) -> tuple[Tensor, Tensor]:
    """Return −log softmax of each positive score by rows and by columns, (pairs,) each."""
    rows, columns = _log_sum_exps(pairs, pairs.no_negatives, scale, tile)
    positives = scale * pairs.positive_scores
    # log(1 + e^(N − p)), N of the negatives: log(e^N + e^p) − p would cancel for easy positives,
    # which have saturated, and leave them no gradient.
    return log1p_exp(rows - positives), log1p_exp(columns - positives)


def _many_positives(pairs: Pairs, scale: Tensor, tile: int | None) -> tuple[Tensor, Tensor]:
    rows, columns = _log_sum_exps(pairs, None, scale, tile)
    # The mean over columns of the scores of their rows is that over rows of their columns'.
    positives = scale * pairs.mean_positive_scores
    return rows - positives, columns - positives


def _log_sum_exps(
    pairs: Pairs, ids: NoNegatives | None, scale: Tensor, tile: int | None
) -> tuple[Tensor, Tensor]:
    """Return those of this rank's rows and of its own columns, (pairs,), extra ones included."""
    rows, columns = log_sum_exp(
        pairs.rows, pairs.all_y, ids, scale=scale, tile=tile, form=pairs.prefixes
    )
    return (
        add_log_sum_exp(rows, pairs.extra_negatives("y"), scale, tile),
        add_log_sum_exp(columns[pairs.own], pairs.extra_negatives("x"), scale, tile),
    )
