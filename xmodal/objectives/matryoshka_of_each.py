"""Matryoshka embeddings by an objective of its own for each width."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.objectives.extra import Extra
from xmodal.objectives.numerics import unit
from xmodal.objectives.pairwise.prefixes import Prefixes
from xmodal.objectives.pairwise.tiles import precise
from xmodal.objectives.widths import check_widths


class MatryoshkaOfEach(nn.Module):
    """Matryoshka representation learning with an objective of its own for each width.

    L = Σ_w c_w L_w(x[:w] / |x[:w]|, y[:w] / |y[:w]|), for objectives whose configuration does not
    take widths. Each takes a pass.
    """

    def __init__(
        self,
        widths: Sequence[int],
        weights: Sequence[float] | None = None,
        *,
        objective: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        check_widths(widths, weights)
        self.prefixes = Prefixes.of(widths, weights)
        self.objectives = nn.ModuleList(objective(width) for width in widths)

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        ids: Tensor | None = None,
        extra: Sequence[Extra] = (),
        **given: Any,
    ) -> Tensor:
        """Return this rank's share of the loss, (), of (pairs, dim), (pairs, dim), ids (pairs,).

        `extra` columns are (n, dim); what else is given is given to the objective of every width.
        """
        narrow = zip(self.objectives, at_widths(self.prefixes, x, y, extra), strict=True)
        shares = [one(*sides, ids, **more, **given) for one, (*sides, more) in narrow]
        return self.prefixes.weighted(torch.stack(shares))

    def at(self, width: int) -> nn.Module:
        """Return the objective of the narrowest width that has so many numbers."""
        return self.objectives[bisect_left(self.prefixes.widths, width)]


def at_widths(
    prefixes: Prefixes, x: Tensor, y: Tensor, extra: Sequence[Extra]
) -> Iterator[tuple[Tensor, Tensor, dict[str, Any]]]:
    """Yield x and y (pairs, width), and extra columns if any, as unit vectors of each width."""
    for vectors in (x, y, *(one.columns for one in extra)):
        if vectors.shape[1:] != (prefixes.widths[-1],):
            raise ValueError(
                "the last of the widths must be that of the embeddings, "
                f"{tuple(vectors.shape[1:])}: it is {prefixes.widths[-1]}"
            )
    for width in prefixes.widths:
        columns = [replace(one, columns=_cut(one.columns, width)) for one in extra]
        yield _cut(x, width), _cut(y, width), {"extra": columns} if columns else {}


def _cut(vectors: Tensor, width: int) -> Tensor:
    return unit(precise(vectors[:, :width]))
