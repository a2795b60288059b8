"""Statistics of the scores of every image with every text of the global batch.

Scores are S = scale · X Yᵀ, a row an image, a column a text. Each rank brings its rows of X and of
Y; what comes back belongs to these. An objective needs no more than a few statistics a row and a
column, so it never holds S itself. This engine is the plain one: it computes its slab of S twice,
by rows and by columns.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from xmodal.distributed.collectives import gather, rank


@dataclass
class LogSumExp:
    """Log-sum-exp statistics of the scores over a rank's own pairs."""

    rows: Tensor  # (pairs,) over all texts, for each image
    columns: Tensor  # (pairs,) over all images, for each text
    positives: Tensor  # (pairs,) the score of each pair itself


def log_sum_exp(x: Tensor, y: Tensor, scale: Tensor, ids: Tensor) -> LogSumExp:
    """Return log Σⱼ exp(scale · xᵢ·yⱼ) by rows and columns, with gradients.

    `x` and `y` are (pairs, dim), pair i being (xᵢ, yᵢ); `scale` (1,); `ids` (pairs,) int64. Other
    pairs of the same id (another caption of the same image) are left out of both sums.
    """
    all_x, all_y, all_ids = gather(x), gather(y), gather(ids)
    own = torch.arange(len(x), device=x.device)
    positive = own + rank() * len(x)
    excluded = ids[:, None] == all_ids
    excluded[own, positive] = False
    by_rows = (scale * (x @ all_y.T)).masked_fill(excluded, -torch.inf)
    by_columns = (scale * (y @ all_x.T)).masked_fill(excluded, -torch.inf)
    return LogSumExp(by_rows.logsumexp(1), by_columns.logsumexp(1), by_rows[own, positive])
