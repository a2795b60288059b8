"""Scores of sets of vectors by late interaction, the same on every processor."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from xmodal.methods.scores import DENSE, MARGIN, DotProduct
from xmodal.models.exact import exact_product
from xmodal.objectives.pairwise.token_sets import shares

PRODUCTS = 2**23  # of vectors, in memory at a time
BITS = 40  # that exact scores keep of the fraction: sums of whole numbers round nothing


class MeanOfBest(DotProduct):
    """Mean of both directions of late interaction (FILIP: Yao et al. 2022).

    Of sets (a, P, dim) and (b, T, dim), of vectors of length 1 or 0 (padding, but for the first),
    ½ (1/P) Σ_p max_t x_p·y_t + ½ (1/T) Σ_t max_p x_p·y_t.
    """

    def __call__(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return scores (a, b), float32 at least."""
        dtype = torch.promote_types(rows.dtype, torch.float32)
        return self._by_blocks(
            rows.to(dtype), columns.to(dtype), lambda x, y: self.product(x, y.T), _mean
        )

    def error(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the bound of rounding: that of products, of their means, and of exact scores."""
        a, b = self.longest(rows, columns)
        eps = torch.finfo(torch.promote_types(rows.dtype, torch.float32)).eps
        of_means = (rows.shape[1] + columns.shape[1] + MARGIN) * eps * a * b
        return super().error(rows, columns) + of_means + 2.0 ** (1 - BITS)

    def exact(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the exact scores (a, b), float64."""
        return self._by_blocks(rows, columns, exact_product, _exact_mean)

    def chosen(self, rows: Tensor, columns: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """Return the exact scores (n,), float64, in places of the block: rows i, columns j."""
        if len(i) * DENSE > len(rows) * len(columns):
            return self.exact(rows, columns)[i, j]
        pairs = zip(i.tolist(), j.tolist(), strict=True)
        found = [self.exact(rows[[a]], columns[[b]])[0] for a, b in pairs]
        return torch.cat(found) if found else rows.new_empty(0, dtype=torch.float64)

    def _by_blocks(
        self,
        rows: Tensor,
        columns: Tensor,
        product: Callable[[Tensor, Tensor], Tensor],
        mean: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        size = max(1, math.isqrt(PRODUCTS // (rows.shape[1] * columns.shape[1])))
        return torch.cat(
            [
                torch.cat([_score(x, y, product, mean) for y in columns.split(size)], 1)
                for x in rows.split(size)
            ]
        )


def _score(
    x: Tensor,
    y: Tensor,
    product: Callable[[Tensor, Tensor], Tensor],
    mean: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Return the scores (a, b) of sets, by `mean` of each direction's best products."""
    x_shares, y_shares = shares(x, torch.float64), shares(y, torch.float64)
    products = product(x.flatten(0, 1), y.flatten(0, 1)).view(*x.shape[:2], *y.shape[:2])
    products = products.masked_fill((x_shares == 0)[:, :, None, None], -torch.inf)
    products = products.masked_fill(y_shares == 0, -torch.inf)
    of_x, of_y = products.amax(3).transpose(1, 2), products.amax(1)  # (a, b, P) and (a, b, T)
    return (mean(of_x, x_shares[:, None]) + mean(of_y, y_shares)) / 2


def _mean(best: Tensor, weights: Tensor) -> Tensor:
    """Return the mean (a, b) of the best products (a, b, vectors), which are −∞ of padding."""
    return (best.masked_fill(weights == 0, 0) * weights.to(best)).sum(2)


def _exact_mean(best: Tensor, weights: Tensor) -> Tensor:
    """Return the same, float64, in whatever order it is summed."""
    counted = weights != 0
    broken = best.isnan().any(2)
    whole = best.nan_to_num(0.0).masked_fill(~counted, 0).mul(2.0**BITS).round().long()
    mean = whole.sum(2).double() / counted.sum(-1) / 2.0**BITS
    return mean.masked_fill(broken, torch.nan)


mean_of_best = MeanOfBest()
