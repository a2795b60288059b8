"""Matryoshka embeddings: their first numbers are embeddings too."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from xmodal.objectives.config import ObjectiveConfig
from xmodal.objectives.extra import Extra
from xmodal.objectives.info_nce import InfoNCE, InfoNCEConfig
from xmodal.objectives.pairwise.prefixes import Prefixes
from xmodal.objectives.widths import check_widths


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

    @property
    def arguments(self) -> dict[str, Any]:
        """Its fields, the objective being that of all widths."""
        of_widths = partial(self.objective.build_for_widths, self.widths)
        return super().arguments | {"objective": of_widths}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_widths(self.widths, self.weights)
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
        from xmodal.objectives.matryoshka_of_each import MatryoshkaOfEach

        return MatryoshkaOfEach(self.widths, self.weights, objective=self.objective.build_for)


class Matryoshka(nn.Module):
    """Matryoshka representation learning (Kusupati et al. 2022, arXiv 2205.13147, equation 1).

    L = Σ_w c_w L(x[:w] / |x[:w]|, y[:w] / |y[:w]|) over widths w, of any objective L that takes
    widths; its temperature is the same at all of them. One that keeps averages needs the widths as
    it is made (`GlobalContrastive(num_widths=…)`, `MutualInformation(widths=…)`). Scores are
    cosines, at the whole width too. All widths are computed in one pass over the tiles of scores.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int] = (32, 64, 128, 256),
        weights: Sequence[float] | None = None,
        objective: Callable[[], nn.Module] = InfoNCE,
    ) -> None:
        super().__init__()
        check_widths(widths, weights)
        self.prefixes = Prefixes.of(widths, weights)
        self.objective = objective()
        self.monitors: dict[str, Tensor] = {}

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        ids: Tensor | None = None,
        extra: Sequence[Extra] = (),
        **given: Any,
    ) -> Tensor:
        """Return this rank's share of the loss, (), of (pairs, dim), (pairs, dim), ids (pairs,).

        `extra` columns are (n, dim) too: they are negatives at every width. What else is given is
        given to the objective.
        """
        given |= {"extra": extra} if extra else {}
        share: Tensor = self.objective(x, y, ids, prefixes=self.prefixes, **given)
        return share

    def at(self, width: int) -> nn.Module:
        """Return the objective of a width."""
        del width
        return self.objective
