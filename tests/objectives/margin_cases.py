"""The contrastive objective with a margin, by the full matrix of differences."""

from functools import partial

import torch
from torch import Tensor, nn

from tests.objectives.equivalence import Case, Inputs, pair_batches
from xmodal.objectives.margin import Margin

TILE = 5  # so that even these small batches take several tiles, the last ones cut short


def margin(size: float) -> Margin:
    return Margin(margin=size, tile=TILE)


def share(module: nn.Module, inputs: Inputs) -> Tensor:
    return module(inputs["x"], inputs["y"], inputs["ids"])


def naive(module: nn.Module, inputs: Inputs) -> Tensor:
    """(1/2B) Σᵢⱼ of all pairs; autograd takes the norm of 0 to have the derivative 0."""
    x, y, ids = inputs.values()
    differences = x[:, None] - y
    squares = (differences**2).sum(-1)
    hinges = (module.margin - differences.norm(dim=-1)).relu()
    return torch.where(ids[:, None] == ids, squares, hinges**2).sum() / (2 * len(x))


def zero_distances() -> Inputs:
    """Texts that lie on images of their own and of other ids, and a thousandth beside them."""
    x, y, ids = pair_batches()["an image twice"].values()
    y[:12] = x[1:13]
    y[12:16] = x[12:16]
    y[16:20] = x[17:21] + 1e-3
    return {"x": x, "y": y, "ids": ids}


CASES = [
    Case(
        f"margin of {size}",
        partial(margin, size),
        share,
        naive,
        pair_batches() | {"zero distances": zero_distances()},
    )
    for size in (1.0, 1.7, 5.0)
]
