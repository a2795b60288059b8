"""Nearest items of many queries, in blocks: of all scores a tile exists at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from xmodal.activity import tracked
from xmodal.methods.scores import dot_product
from xmodal.search.index_folder import Side

BLOCK = 1024  # queries
TILE = 8192  # items

# Of the rows (a,) of some queries and (b,) of some items, which of the latter count, (a, b) bool.
Choice = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Nearest:
    """The items nearest to each of some queries, best first: scores and rows, (queries, k).

    Of equal scores the lowest row comes first. Where fewer than k items count, scores are -inf.
    """

    queries: Tensor
    scores: Tensor
    rows: Tensor

    def pairs(self, lowest: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return rows of queries, rows of items and scores, (n,), of the scores from `lowest`."""
        i, j = (self.scores >= max(lowest, torch.finfo(torch.float32).min)).nonzero(as_tuple=True)
        return self.queries[i], self.rows[i, j], self.scores[i, j]


def nearest_in_blocks(
    queries: Tensor, side: Side, k: int, what: str, choice: Choice | None = None
) -> Iterator[Nearest]:
    """Yield the k nearest items of a side for blocks of queries (n, dim) or (n, K, dim), by dot
    product: of all items, or of the candidates of the side's approximate index.
    """
    find = _among_all if side.approximation is None else _among_found
    for block in tracked(torch.arange(len(queries)).split(BLOCK), f"{what}: block"):
        yield Nearest(block, *find(queries[block].float(), block, side, k, choice))


def _among_all(
    queries: Tensor, block: Tensor, side: Side, k: int, choice: Choice | None
) -> tuple[Tensor, Tensor]:
    best = BestSoFar(len(block), k)
    for tile in torch.arange(len(side)).split(TILE):
        scores = dot_product(queries, side.vectors[tile[0] : tile[-1] + 1].float())
        if choice is not None:
            scores = scores.masked_fill(~choice(block, tile), -torch.inf)
        best.add(scores, tile)
    return best.sorted()


def _among_found(
    queries: Tensor, block: Tensor, side: Side, k: int, choice: Choice | None
) -> tuple[Tensor, Tensor]:
    assert side.approximation is not None
    scores, rows = torch.full((len(block), k), -torch.inf), torch.zeros(len(block), k).long()
    for place, query in enumerate(queries):
        found = side.approximation.candidates(query, k + 1)
        if choice is not None:
            found = found[choice(block[place : place + 1], found)[0]]
        best = BestSoFar(1, k)
        best.add(dot_product(query[None], side.vectors[found].float()), found)
        own_scores, own_rows = best.sorted()
        scores[place, : own_rows.shape[1]], rows[place, : own_rows.shape[1]] = own_scores, own_rows
    return scores, rows


def others(rows: Tensor, columns: Tensor) -> Tensor:
    """Return that every item counts but the query itself: the choice within one set."""
    return rows[:, None] != columns[None]


class BestSoFar:
    """The k best items of each query among the tiles seen so far."""

    def __init__(self, queries: int, k: int) -> None:
        self.k = k
        self.scores = torch.empty(queries, 0)
        self.rows = torch.empty(queries, 0, dtype=torch.int64)

    def add(self, scores: Tensor, rows: Tensor) -> None:
        """Take the scores (queries, n) of the items of rows (n,), which come in ascending order."""
        top, places = scores.topk(min(self.k, scores.shape[1]), dim=1)
        both = torch.cat([self.scores, top], 1)
        self.scores, chosen = both.topk(min(self.k, both.shape[1]), dim=1)
        self.rows = torch.cat([self.rows, rows[places]], 1).gather(1, chosen)

    def sorted(self) -> tuple[Tensor, Tensor]:
        """Return scores and rows, (queries, at most k), best first."""
        rows, order = self.rows.sort(dim=1)
        scores, best = self.scores.gather(1, order).sort(dim=1, descending=True, stable=True)
        return scores, rows.gather(1, best)
