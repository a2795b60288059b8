"""Late interaction by all products of all pairs' tokens."""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.objectives.equivalence import BATCH, DIM, Case, Inputs, pair_batches
from xmodal.objectives.late_interaction import LateInteraction

POSITIONS, WORDS = 5, 3
TILE = 15  # of products: three items at a time


def late(scale: float) -> LateInteraction:
    """The objective in float64."""
    loss = LateInteraction(scale=scale, tile=TILE).double()
    loss.log_scale.data.fill_(math.log(scale))  # it began in single precision
    return loss


def share(module: nn.Module, inputs: Inputs) -> Tensor:
    return module(inputs["x"], inputs["y"], inputs["ids"])


def naive(module: nn.Module, inputs: Inputs) -> Tensor:
    """The mean cost of each image among texts by s_I and of each text among images by s_T."""
    x, y, ids = inputs.values()
    products = torch.einsum("ipd,jtd->ijpt", x, y)
    counted_x, counted_y = counted(x)[:, None, :, None], counted(y)[None, :, None]
    products = products.masked_fill(~(counted_x & counted_y), -torch.inf)
    negative = ids[:, None] != ids
    eye = torch.eye(len(x), dtype=torch.bool)
    total = 0 * (x.sum() + y.sum())
    for dim, best, used in ((1, 3, counted_x[..., 0]), (0, 2, counted_y[:, :, 0])):
        values = products.max(best).values.masked_fill(~used, 0)
        scores = module.log_scale.exp() * values.sum(2) / used.sum(2)
        kept = scores.masked_fill(~(negative | eye), -torch.inf)
        total = total + (kept.logsumexp(dim) - scores.diag()).mean() / 2
    return total


def counted(items: Tensor) -> Tensor:
    """Mask of tokens that are no padding, (items, tokens)."""
    found = (items != 0).any(2)
    return found | (torch.arange(items.shape[1]) == 0)


def batches() -> dict[str, Inputs]:
    """Sets of vectors: with padding, with ties, with ids that come again."""
    generator = torch.Generator().manual_seed(5)
    standard = pair_batches()

    def drawn() -> dict[str, Tensor]:
        shapes = {"x": (BATCH, POSITIONS, DIM), "y": (BATCH, WORDS, DIM)}
        return {
            side: torch.randn(shape, generator=generator, dtype=torch.float64)
            for side, shape in shapes.items()
        }

    random = {side: F.normalize(values, dim=2) for side, values in drawn().items()}
    padded = {side: values.clone() for side, values in random.items()}
    for side in padded.values():
        lengths = torch.randint(1, side.shape[1] + 1, (BATCH,), generator=generator)
        side[torch.arange(side.shape[1]) >= lengths[:, None]] = 0
    padded["x"][4] = 0  # an item without any vector
    ties = {side: values.round() for side, values in drawn().items()}
    ties = {
        side: values + (values.abs().sum(2, keepdim=True) == 0) for side, values in ties.items()
    }
    large = {side: 10 * values for side, values in random.items()}
    found = {
        "random": (random, "random"),
        "padded": (padded, "an image twice"),
        "five labels": (random, "five labels"),
        "one label": (random, "one label"),
        "ties": (ties, "random"),
        "scores of 100": (large, "random"),
    }
    return {name: {**sides, "ids": standard[ids]["ids"]} for name, (sides, ids) in found.items()}


CASES = [Case("late interaction", partial(late, 3.0), share, naive, batches())]
