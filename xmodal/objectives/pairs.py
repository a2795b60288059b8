"""A rank's pairs and those of all ranks: the input of objectives over the global batch.

The convention of `xmodal.distributed.collectives` holds: an objective is a mean over the global
batch, and returns the rank's share of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from xmodal.distributed.collectives import gather, rank, row_counts, share_of_mean
from xmodal.objectives.config import MatmulDtype
from xmodal.objectives.extra import Extra, Side
from xmodal.objectives.negatives import Negatives
from xmodal.objectives.numerics import unit
from xmodal.objectives.pairwise.multi_vector import pair_scores
from xmodal.objectives.pairwise.prefixes import Prefixes, square_lengths
from xmodal.objectives.pairwise.tiles import Alike, NoNegatives, first_equal, num_equal, precise


class LimitedIds(NamedTuple):
    """Ids (pairs,) for objectives that skip pairs whose y are alike, too."""

    ids: Tensor | None
    limit: float  # products of two y above it are of such pairs


@dataclass(frozen=True)
class Pairs:
    """This rank's `pairs`, of which row i of x belongs to row i of y, and all ranks' `batch`.

    With `prefixes` a pair has a score, their cosine, of each width: what is (pairs,) without is
    (pairs, widths).
    """

    x: Tensor  # (pairs, dim), or (pairs, positions, dim) or (pairs, K, dim)
    y: Tensor  # (pairs, dim), or (pairs, K, dim)
    rows: Tensor  # x in the precision that scores are multiplied in
    ids: Tensor  # (pairs,) int64: pairs of equal ids are no negatives of each other
    all_y: Tensor  # (batch, …) in the same precision, its gradient summed over the ranks
    all_ids: Tensor  # (batch,) int64
    counts: list[int]  # pairs of each rank
    extra: Sequence[Extra] = ()  # negatives beside those of the batch
    prefixes: Prefixes | None = None  # widths that are trained together
    limit: float | None = None  # pairs whose y have a product above it are no negatives

    @classmethod
    def of(
        cls,
        x: Tensor,
        y: Tensor,
        ids: Tensor | LimitedIds | None = None,
        matmul_dtype: MatmulDtype = "float32",
        extra: Sequence[Extra] = (),
        prefixes: Prefixes | None = None,
        *,
        several: bool = False,
        skips_alike: bool = False,
    ) -> "Pairs":
        """Gather y of every rank's pairs in the precision `matmul_dtype`.

        Without ids (pairs,) every pair is its own: all others are its negatives. `extra` negatives
        are not among the batch's. Items have a vector each, or where the objective says so
        `several`; one that `skips_alike` takes `LimitedIds`. Raises `ValueError` where x, y, ids
        and extra negatives do not go together, or are what the objective does not take.
        """
        _check_shapes(x, y, extra, several=several)
        ids, limit = ids_and_limit(ids, skips_alike=skips_alike)
        counts = row_counts(x)
        ids = own_ids(x, counts) if ids is None else ids
        if not (len(x) == len(y) and ids.shape == (len(x),) and ids.dtype == torch.int64):
            raise ValueError(
                f"x and y must have a row a pair and ids be int64 (pairs,): they are "
                f"{tuple(x.shape)}, {tuple(y.shape)} and {ids.dtype} {tuple(ids.shape)}"
            )
        dtype = torch.promote_types(precise(x[:0]).dtype, y.dtype)
        x, y = x.to(dtype), y.to(dtype)
        rows, columns = (x, y) if matmul_dtype == "float32" else (x.bfloat16(), y.bfloat16())
        everything = gather(columns, counts), gather(ids, counts), counts
        return cls(x, y, rows, ids, *everything, extra, prefixes, limit)

    @property
    def both_ids(self) -> tuple[Tensor, Tensor]:
        """The ids of the rows and of the columns of the scores x·y."""
        return self.ids, self.all_ids

    @property
    def no_negatives(self) -> NoNegatives:
        """The same ids, and with a limit what makes further pairs no negatives: their y."""
        if self.limit is None:
            return self.both_ids
        return Alike(*self.both_ids, self.y.detach(), self.all_y.detach(), self.limit)

    @property
    def first(self) -> int:
        """Place of this rank's first pair in the batch."""
        return sum(self.counts[: rank()])

    @property
    def own(self) -> slice:
        """This rank's pairs in the batch."""
        return slice(self.first, self.first + len(self.x))

    @property
    def positive_scores(self) -> Tensor:
        """Each pair's score x·y, (pairs,), never rounded; of K embeddings the greatest."""
        if self.prefixes:
            return self.prefixes.pair_scores(self.x, self.y)
        return pair_scores(self.x, self.y)

    def square_lengths(self, items: Tensor) -> Tensor:
        """Return |x|² of items, (items,)."""
        return square_lengths(items, self.prefixes)

    def extra_negatives(self, side: Side) -> list[Negatives]:
        """Return the extra columns beside a side, as negatives of this rank's items of the other.

        Beside `y` they are negatives of x, beside `x` of y.
        """
        items = self.x if side == "y" else self.y
        return [
            one.negatives(
                items, self.ids, self.rows.dtype, self.limit, self.y.detach(), self.prefixes
            )
            for one in self.extra
            if one.side == side
        ]

    def negatives(self, side: Side) -> list[Negatives]:
        """Return all negatives that are on a side: those of the batch, then the extra ones."""
        items = self.x if side == "y" else self.y
        columns = self.all_y if side == "y" else gather(self.rows, self.counts)
        whole = Negatives(items, columns, self.no_negatives, self.prefixes)
        return [whole, *self.extra_negatives(side)]

    @property
    def mean_positive_scores(self) -> Tensor:
        """The mean score of each x with all y of its id, (pairs,), never rounded."""
        scores = [(one.x * one.means_of_ids()[0]).sum(1) for one, _ in self.by_width()]
        return torch.stack(scores, 1) if self.prefixes else scores[0]

    def by_width(self, *values: Tensor) -> Iterator[tuple["Pairs", list[Tensor]]]:
        """Yield the pairs at each width, with values (…, widths) of it; else just what there is."""
        if self.prefixes is None:
            yield self, [*values]
            return
        for number, width in enumerate(self.prefixes.widths):
            x, y, all_y = (unit(precise(side[:, :width])) for side in (self.x, self.y, self.all_y))
            narrow = replace(self, x=x, y=y, rows=x, all_y=all_y, prefixes=None)
            yield narrow, [value[..., number] for value in values]

    def weighted(self, values: Sequence[Tensor] | Tensor) -> Tensor:
        """Return the weighted sum over widths of values (…, widths), or of one tensor a width.

        Without widths the values are returned, or the one tensor.
        """
        if self.prefixes is None:
            return values if isinstance(values, Tensor) else values[0]
        values = values if isinstance(values, Tensor) else torch.stack([*values], -1)
        return self.prefixes.weighted(values)

    def means_of_ids(self) -> tuple[Tensor, Tensor]:
        """Return the mean of y over all pairs of each pair's id, (pairs, dim), and their number."""
        sums = torch.zeros_like(self.all_y)
        sums = sums.index_add(0, first_equal(self.all_ids, self.all_ids), self.all_y)
        sizes = num_equal(self.ids, self.all_ids)
        return sums[first_equal(self.ids, self.all_ids)] / sizes[:, None], sizes

    def mean(self, values: Tensor) -> Tensor:
        """Return the rank's share of the batch's mean, given a value a pair, or their sum.

        Values of widths, (pairs, widths), are summed by their weights; a sum has been.
        """
        return share_of_mean(self.weighted(values) if values.ndim else values, self.counts)


def _check_shapes(x: Tensor, y: Tensor, extra: Sequence[Extra], *, several: bool) -> None:
    if not several and (x.ndim, y.ndim) != (2, 2):
        raise ValueError(
            f"this objective takes an embedding of each item, (pairs, dim): x and y are "
            f"{tuple(x.shape)} and {tuple(y.shape)}"
        )
    for one in extra:
        if one.columns.shape[-1] != x.shape[-1] or not (several or one.columns.ndim == 2):
            raise ValueError(
                f"extra columns are (n, {x.shape[-1]}), as x is: they are "
                f"{tuple(one.columns.shape)}"
            )


def ids_and_limit(
    ids: Tensor | LimitedIds | None, *, skips_alike: bool = False
) -> tuple[Tensor | None, float | None]:
    """Return ids (pairs,), and the limit of an objective that `skips_alike`.

    Raises `ValueError` where another one is given a limit.
    """
    ids, limit = ids if isinstance(ids, LimitedIds) else (ids, None)
    if limit is not None and not skips_alike:
        raise ValueError("this objective goes by ids alone, without a limit of likeness")
    return ids, limit


def own_ids(x: Tensor, counts: list[int] | None = None) -> Tensor:
    """Return ids (pairs,) of which every pair of the batch has its own."""
    first = sum((counts or row_counts(x))[: rank()])
    return torch.arange(first, first + len(x), device=x.device)
