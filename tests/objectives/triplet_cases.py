"""Triplets with all, the hardest and semi-hard negatives, by the full matrix."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.objectives.equivalence import BATCH, DIM, Case, Inputs, pair_batches
from xmodal.objectives.triplet import Triplet

TILE = 5  # so that even these small batches take several tiles, the last ones cut short


def triplet(progress: float = 1.0, **given: Any) -> Triplet:
    loss = Triplet(tile=TILE, **given)
    loss.progress = progress
    return loss


def share(module: nn.Module, inputs: Inputs) -> Tensor:
    return module(inputs["x"], inputs["y"], inputs["ids"])


def naive(module: nn.Module, inputs: Inputs) -> Tensor:
    """The mean over the batch of the hinges of rows and columns."""
    x, y, ids = inputs.values()
    scores, negative = best_products(x, y), ids[:, None] != ids
    by_row = (module.margin + scores - scores.diag()[:, None]).relu()
    by_column = (module.margin + scores.T - scores.diag()[:, None]).relu()
    every = (by_row + by_column)[negative].sum() / len(x)
    if module.negatives == "sum":
        return every
    mined = sum(
        hinges[i, j]
        for hinges, table in ((by_row, scores), (by_column, scores.T))
        for i in range(len(x))
        for j in [hardest(table[i], table[i, i], negative[i], module.negatives)]
        if j is not None
    )
    done = min(1.0, module.progress / module.warmup) if module.warmup else 1.0
    return (1 - done) * every + done * mined / len(x) + 0 * (x.sum() + y.sum())


def best_products(x: Tensor, y: Tensor) -> Tensor:
    """Of (items, dim) x yᵀ; of several embeddings an item, the first of the greatest."""
    x, y = (side.view(len(side), -1, side.shape[-1]) for side in (x, y))
    return torch.einsum("ikd,jld->ijkl", x, y).flatten(2).max(2).values


def hardest(scores: Tensor, own: Tensor, negative: Tensor, kind: str) -> int | None:
    """The place of the greatest negative, the first of equal ones; for semi-hard, below the own."""
    found = negative.nonzero()[:, 0].tolist()
    if kind == "semi_hard":
        found = [j for j in found if scores[j] < own] or found
    return max(found, key=lambda j: (scores[j].item(), -j), default=None)


def batches() -> dict[str, Inputs]:
    """Of these, rounding alone would say which of negatives that are all alike is the hardest."""
    alike = torch.arange(DIM).sub(3).double().repeat(BATCH, 1)
    standard = pair_batches()
    return standard | {"all alike": {"x": alike, "y": alike, "ids": standard["random"]["ids"]}}


def several_embeddings(of_x: int, of_y: int) -> dict[str, Inputs]:
    """Several embeddings an item, which of them is nearest left to chance, and often tied."""
    generator = torch.Generator().manual_seed(2)
    ids = batches()["an image twice"]["ids"]
    sides = {"x": of_x, "y": of_y}

    def drawn() -> Inputs:
        shapes = {side: (BATCH, per_item, DIM) for side, per_item in sides.items()}
        return {
            side: torch.randn(shape, generator=generator, dtype=torch.float64)
            for side, shape in shapes.items()
        }

    vectors = {side: F.normalize(values, dim=2) for side, values in drawn().items()}
    ties = {side: values.round() for side, values in drawn().items()}
    alike = {side: values[:1].repeat(BATCH, 1, 1) for side, values in ties.items()}
    twice = {side: values[:, :1].repeat(1, sides[side], 1) for side, values in ties.items()}
    every = {"random": vectors, "ties": ties, "all alike": alike, "embeddings alike": twice}
    return {name: {**values, "ids": ids} for name, values in every.items()}


CASES = [
    Case(f"triplet, {name}", partial(triplet, **given), share, naive, batches())
    for name, given in {
        "sum": {"negatives": "sum"},
        "hardest": {"negatives": "hardest"},
        "semi-hard": {"negatives": "semi_hard"},
        # Scores that are whole numbers then lie at the hinges.
        "sum, margin of 2": {"negatives": "sum", "margin": 2},
        "hardest, margin of 2": {"negatives": "hardest", "margin": 2},
        "semi-hard, margin of 2": {"negatives": "semi_hard", "margin": 2},
        "hardest, warming up": {"warmup": 0.5, "progress": 0.2},
    }.items()
] + [
    Case(
        f"triplet, {kind}, {of_x} × {of_y} embeddings",
        partial(triplet, negatives=kind, margin=margin),
        share,
        naive,
        several_embeddings(of_x, of_y),
    )
    for kind, margin, of_x, of_y in (
        ("sum", 0.2, 3, 3),
        ("sum", 2, 2, 1),
        ("hardest", 0.2, 2, 2),
        ("semi_hard", 0.2, 2, 3),
    )
]
