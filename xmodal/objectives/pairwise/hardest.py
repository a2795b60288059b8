"""The greatest score of every row and column: the hardest negative."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from xmodal.distributed.collectives import world_size
from xmodal.objectives.pairwise.engine import Form, engine_for
from xmodal.objectives.pairwise.tiles import NoNegatives, Tiles


@dataclass(frozen=True)
class Hardest:
    """Each row's and column's greatest score and its place."""

    columns: Tensor  # (rows,) int64: the column of each row's; −1 without a negative
    rows: Tensor  # (columns,) int64: the row of each column's, counted over all ranks; or −1
    scores: tuple[Tensor, Tensor]  # (rows,) and (columns,); −∞ without a negative


@torch.no_grad()
def hardest(
    x: Tensor,
    y: Tensor,
    ids: NoNegatives | None = None,
    *,
    first_row: int = 0,
    below: tuple[Tensor, Tensor] | None = None,
    tile: int | None = None,
    form: Form | None = None,
) -> Hardest:
    """Find each row's and column's negative of the greatest score, the first of equal ones.

    `x` is this rank's (rows, dim), which are rows `first_row` and on of all ranks'; `y` that of all
    ranks (columns, dim), `ids` theirs (rows,) and (columns,). With `below` (rows,) and (columns,),
    scores less than that come before all others: semi-hard negatives (Schroff et al. 2015). Of
    (rows, K, dim) and (columns, K, dim) a score is the greatest of K × K. Of a `form` with several
    scores a pair, places and limits are (rows, n) and (columns, n).
    """
    engine = engine_for(x, y, ids, tile, form=form)
    tiles = engine.tiles
    rows, near_rows = _Best(len(x), tiles), _Best(len(x), tiles)
    columns, near_columns = _Best(len(y), tiles), _Best(len(y), tiles)
    for i, j, of_rows, of_columns in engine.greatest(below):
        for best, top in zip((rows, near_rows), of_rows, strict=False):
            best.add(i, top.scores, top.places)
        for best, top in zip((columns, near_columns), of_columns, strict=False):
            best.add(j, top.scores, top.places + first_row)
    columns.merge_ranks()
    near_columns.merge_ranks()
    row_scores, best_columns = near_rows.or_else(rows)
    column_scores, best_rows = near_columns.or_else(columns)
    return Hardest(best_columns, best_rows, (row_scores, column_scores))


class _Best:
    """The greatest score so far and where it was first seen."""

    def __init__(self, length: int, tiles: Tiles) -> None:
        shape = (length, *tiles.of_pair)
        self.score = tiles.x.new_full(shape, -torch.inf, dtype=tiles.dtype)
        self.index = tiles.x.new_full(shape, -1, dtype=torch.int64)

    def add(self, where: slice, top: Tensor, index: Tensor) -> None:
        """Take a block's greatest scores, and where they are."""
        better = top > self.score[where]
        self.score[where] = torch.where(better, top, self.score[where])
        self.index[where] = torch.where(better, index, self.index[where])

    def merge_ranks(self) -> None:
        """Keep the best of all ranks, of equal ones the lowest index."""
        if world_size() == 1:
            return
        top = self.score.clone()
        dist.all_reduce(top, dist.ReduceOp.MAX)
        has_top = (self.score == top) & (self.index >= 0)
        index = self.index.masked_fill(~has_top, torch.iinfo(torch.int64).max)
        dist.all_reduce(index, dist.ReduceOp.MIN)
        self.score, self.index = top, index.masked_fill(top.isneginf(), -1)

    def or_else(self, other: "_Best") -> tuple[Tensor, Tensor]:
        """Return the scores and indices, those of `other` where there is none."""
        found = self.index >= 0
        score, index = (self.score, other.score), (self.index, other.index)
        return torch.where(found, *score), torch.where(found, *index)
