"""Each row's positives one by one, where a loss needs more of them than a sum."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from xmodal.devices import has_values
from xmodal.objectives.pairwise.tiles import num_equal


def places_of_equal(x_ids: Tensor, y_ids: Tensor, most: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the columns of each row's id, (rows, n) int64, −1 after the last of a row, and the
    greatest number of columns of an id, ().

    n is `most`, or else that number, which waits for a GPU; 1 where the tensors have no values.
    """
    ordered, order = y_ids.sort(stable=True)
    largest = torch.cat([num_equal(y_ids, y_ids), y_ids.new_zeros(1)]).max()
    if most is None:
        most = int(largest) if has_values(largest) else 1
    most = min(most, len(y_ids))
    count = torch.arange(most, device=y_ids.device)
    places = torch.searchsorted(ordered, x_ids)[:, None] + count
    exist = count < num_equal(x_ids, y_ids)[:, None]
    return torch.where(exist, order[places.clamp(max=len(order) - 1)], -1), largest


def scores_at(x: Tensor, y: Tensor, places: Tensor) -> Tensor:
    """Return the scores x·y of each row (rows, dim) with its columns `places`, (rows, n).

    Memory is that of the scores and of one copy of x. Where a place is −1, the score is +∞.
    """
    scores: Tensor = _ScoresAt.apply(x, y, places.clamp(min=0))
    return scores.masked_fill(places < 0, torch.inf)


class _ScoresAt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(x, y, places)
        scores = x.new_empty(places.shape)
        for column, place in zip(scores.T, places.T, strict=True):
            torch.linalg.vecdot(x, y.index_select(0, place), out=column)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        x, y, places = ctx.saved_tensors
        dx, dy = torch.zeros_like(x), torch.zeros_like(y)
        for gradient, place in zip(gradients[0].T, places.T, strict=True):
            dx.addcmul_(gradient[:, None], y.index_select(0, place))
            dy.index_add_(0, place, gradient[:, None] * x)
        return dx, dy, None
