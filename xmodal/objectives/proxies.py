"""Proxies of classes: vectors that are learned, one for each class, however many there are.

They are a parameter like any other. Checkpoints hold it whole, so that they resume on any number of
ranks; ZeRO stage 1 divides the optimizer's state of it among the ranks, stage 3 the parameter too.
Every rank scores its own rows with all proxies, a tile at a time: the work is divided among the
ranks, and no matrix of batch × classes is ever in memory.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.devices import is_on_host
from xmodal.objectives.pairwise.prefixes import Prefixes
from xmodal.objectives.pairwise.tiles import precise


class Proxies(nn.Module):
    """A unit vector for each class, (classes, width), learned with the embeddings."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, width) / math.sqrt(width))

    def cut(self, width: int) -> None:
        """Leave the first `width` numbers of each proxy."""
        self.weight = nn.Parameter(self.weight[:, :width].detach().clone())

    def forward(
        self, embeddings: Tensor, labels: Tensor, prefixes: Prefixes | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return embeddings (rows, width) and proxies as unit vectors, and each row's score with
        the proxy of its label, (rows,).

        With prefixes, whose first numbers are proxies too, the lengths stay and scores are
        (rows, widths). Raises `ValueError` where labels (rows,) are not int64 from 0 to below the
        classes.
        """
        _check(embeddings, labels, len(self.weight))
        x, proxies = precise(embeddings), precise(self.weight)
        if prefixes:
            return x, proxies, prefixes.pair_scores(x, proxies.index_select(0, labels))
        x, proxies = F.normalize(x), F.normalize(proxies)
        return x, proxies, (x * proxies.index_select(0, labels)).sum(1)


def _check(embeddings: Tensor, labels: Tensor, classes: int) -> None:
    fits = labels.shape == embeddings.shape[:1] and labels.dtype == torch.int64
    if fits and len(labels) and is_on_host(labels):
        fits = bool((labels.min() >= 0) & (labels.max() < classes))
    if not fits:
        raise ValueError(
            f"labels must be int64 from 0 to {classes - 1}, one for each of {len(embeddings)} rows"
        )
