"""Scores of items that rank the same on every processor.

A score is a pure function of two items. What is ranked by it must not depend on how it is computed:
a fast product rounds otherwise in another tile, on another processor or with more threads, so that
equal items would win or lose by chance. So a `Score` bounds the error of its fast
values, and computes exact ones for the scores within the bound.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from xmodal.models.exact import exact_dots, exact_error, exact_product, plain_dots

Function = Callable[[Tensor, Tensor], Tensor]  # of (a, …) and (b, …), (a, b)
MARGIN = 8  # roundings besides one for each product and sum: of the norms, and of a kernel's ends
DENSE = 64  # of a block, from this share on all exact scores are computed


class Score:
    """Scores by a function that is exact: to the last bit the same for equal pairs.

    Called with blocks (a, …) and (b, …) it returns scores (a, b).
    """

    def __init__(self, function: Function) -> None:
        self.function = function

    def __call__(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return scores (a, b) of rows (a, …) with columns (b, …), fast."""
        return self.function(rows, columns)

    def error(self, _rows: Tensor, _columns: Tensor) -> Tensor | None:
        """Return the greatest error of the fast scores of a block, (), float64; None: no error."""
        return None

    def exact(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the exact scores (a, b), float64."""
        return self(rows, columns).double()

    def chosen(self, rows: Tensor, columns: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """Return the exact scores (n,), float64, in places of the block: rows i, columns j."""
        return self.exact(rows, columns)[i, j]

    def reach(
        self, block: tuple[Tensor, Tensor], i: Tensor, j: Tensor, limits: Tensor, error: Tensor
    ) -> Tensor:
        """Return whether exact scores in places of a block reach limits (n,), float64: (n,) bool.

        `error` is that of the fast scores.
        """
        del error
        return self.chosen(*block, i, j) >= limits

    def swapped(self) -> "Score":
        """Return the score of columns with rows."""
        return Score(lambda columns, rows: self(rows, columns).T)


class DotProduct(Score):
    """Dot products of vectors (a, dim) and (b, dim); of sets (a, K, dim), the best of K × K.

    `product` multiplies matrices of float32 or float64, (a, dim) and (dim, b), in any order of
    summation.
    """

    def __init__(self, product: Function = torch.mm) -> None:
        self.product = product

    def __call__(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return scores (a, b), float32 at least."""
        return self._best(rows, columns, lambda x, y: self.product(_wide(x), _wide(y).T))

    def error(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the bound of rounding, γ |x| |y|, in any order of summation (Higham 2002, 3.1),
        and of what exact scores cut off.
        """
        limits, dim, unit = torch.finfo(_wide(rows[:0]).dtype), rows.shape[-1], _rounding(rows)
        if unit >= 0.5:
            return rows.new_full((), math.inf, dtype=torch.float64)
        a, b = self.longest(rows, columns)
        # What is too small is lost, and what is too large becomes infinite: then nothing is known.
        lost = limits.tiny * (dim + math.sqrt(dim) * (a + b))
        bound = (unit / (1 - unit) + exact_error(dim)) * a * b + lost
        return bound.where(a * b < limits.max / 4, math.inf)

    def longest(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Return at least the lengths of the longest row and column, (), float64 each."""
        return greatest_norm(rows), greatest_norm(columns)

    def exact(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the exact scores (a, b), float64."""
        return self._best(rows, columns, exact_product)

    def chosen(self, rows: Tensor, columns: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """Return the exact scores (n,), float64, in places of the block: rows i, columns j."""
        if len(i) * DENSE > len(rows) * len(columns):
            return self.exact(rows, columns)[i, j]
        if rows.ndim == 2:
            return exact_dots(rows, columns, i, j)
        k, m = rows.shape[1], columns.shape[1]
        senses = torch.arange(k * m, device=i.device)
        x, y = (i[:, None] * k + senses // m).flatten(), (j[:, None] * m + senses % m).flatten()
        dots = exact_dots(rows.flatten(0, 1), columns.flatten(0, 1), x, y)
        return dots.view(len(i), k * m).amax(1)

    def reach(
        self, block: tuple[Tensor, Tensor], i: Tensor, j: Tensor, limits: Tensor, error: Tensor
    ) -> Tensor:
        """Return whether exact scores in places of a block reach limits (n,), float64: (n,) bool.

        `error` is that of the fast scores.
        """
        rows, columns = block
        if rows.ndim > 2:
            return super().reach(block, i, j, limits, error)
        # Nearly all that float32 cannot tell, float64 can: of the error its share stays, and that
        # of what exact scores cut off.
        scores = plain_dots(rows, columns, i, j)
        cut_off = exact_error(rows.shape[1])
        finer = torch.finfo(torch.float64).eps / torch.finfo(_wide(rows[:0]).dtype).eps
        finer += cut_off / (cut_off + _rounding(rows))
        reached = scores >= limits
        near = (~((scores - limits).abs() > error * finer)).nonzero()[:, 0]
        reached[near] = exact_dots(rows, columns, i[near], j[near]) >= limits[near]
        return reached

    def swapped(self) -> "Score":
        """Return the score of columns with rows: the same."""
        return self

    def _best(self, rows: Tensor, columns: Tensor, product: Function) -> Tensor:
        if rows.ndim == 2:
            return product(rows, columns)
        scores = product(rows.flatten(0, 1), columns.flatten(0, 1))
        senses = rows.shape[1], columns.shape[1]
        return scores.unflatten(1, (-1, senses[1])).unflatten(0, (-1, senses[0])).amax((1, 3))


dot_product = DotProduct()


def as_score(function: Function) -> Score:
    """Return a score; a plain function is one that is exact."""
    return function if isinstance(function, Score) else Score(function)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _rounding(x: Tensor) -> float:
    """Return γ of dot products of vectors such as these, but for terms of higher order."""
    return (x.shape[-1] + MARGIN) * torch.finfo(_wide(x[:0]).dtype).eps / 2


def greatest_norm(vectors: Tensor) -> Tensor:
    """Return at least the greatest length, (), float64; infinite or NaN where a vector is so."""
    wide = _wide(vectors)
    norms = torch.linalg.vector_norm(wide, dim=-1)
    # Squares that underflow are missing from the sum.
    tiny = torch.finfo(wide.dtype).tiny
    return 1.01 * norms.amax().double() + math.sqrt(vectors.shape[-1] * tiny)
