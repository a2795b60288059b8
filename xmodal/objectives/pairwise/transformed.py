"""Functions of scores in place of the scores, and positives in place of negatives.

They are forms of the passes over tiles, in plain PyTorch: `form=Transformed(function)`.
"""

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from xmodal.objectives.pairwise.plain_engine import LogitFunction, Logits, PlainEngine
from xmodal.objectives.pairwise.prefixes import PrefixEngine, Prefixes, PrefixTiles
from xmodal.objectives.pairwise.tiles import NoNegatives, Tiles


@dataclass(frozen=True)
class Transformed:
    """A function of the scores x·y, or the scores themselves, of negatives or of positives.

    The log-sum-exp is then that of the function. Positives are rows and columns of equal ids. With
    `prefixes` scores are cosines of several widths, and the function is of those of each.
    """

    function: LogitFunction | None = None
    positives: bool = False
    prefixes: Prefixes | None = None

    def of_width(self, number: int) -> "Transformed":
        """Return that of a single width."""
        function = self.function and partial(_of_width, self.function, number)
        return Transformed(function, self.positives)

    @property
    def of_pair(self) -> tuple[int, ...]:
        """The shape of a pair's scores: () of one, else one a width."""
        return self.prefixes.of_pair if self.prefixes else ()

    def engine(
        self,
        x: Tensor,
        y: Tensor,
        ids: NoNegatives | None,
        size: int | None,
        scale: Tensor | None,
    ) -> PlainEngine:
        """Return what computes tiles of it."""
        if self.prefixes:
            of_widths = PrefixTiles(
                x, y, ids, size, scale, prefixes=self.prefixes, positives=self.positives
            )
            return PrefixEngine(of_widths, self.function)
        return PlainEngine(Tiles(x, y, ids, size, scale, positives=self.positives), self.function)


def _of_width(
    function: LogitFunction, number: int, scores: Tensor, i: slice, j: slice, _: int
) -> Logits:
    return function(scores, i, j, number)
