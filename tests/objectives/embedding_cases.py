"""Objectives on embeddings as such: SimSiam's cosines, PIE-Net's diversity and discrepancy."""

import torch
from torch import Tensor, nn

from tests.objectives.equivalence import BATCH, DIM, Case, Inputs, pair_batches
from xmodal.objectives.polysemous import diversity, maximum_mean_discrepancy
from xmodal.objectives.self_distillation import NegativeCosine

TILE = 5


def four(batches: dict[str, Inputs]) -> dict[str, Inputs]:
    """Predictions and projections of two views: zero vectors among them in one batch."""
    made = {
        name: {"p1": b["x"], "p2": b["y"], "z1": b["y"].flip(1), "z2": b["x"].roll(1, 1)}
        for name, b in batches.items()
    }
    generator = torch.Generator().manual_seed(3)
    zeros = torch.randn(4, BATCH, DIM, generator=generator, dtype=torch.float64)
    zeros[:, ::5] = 0
    zeros[2, 3] = 0
    zeros[0, 7] = 0
    return made | {"zero vectors": dict(zip(("p1", "p2", "z1", "z2"), zeros, strict=True))}


def share_of_cosines(module: nn.Module, inputs: Inputs) -> Tensor:
    return module(inputs["p1"], inputs["p2"], inputs["z1"], inputs["z2"])


def naive_cosines(module: nn.Module, inputs: Inputs) -> Tensor:
    p1, p2, z1, z2 = inputs["p1"], inputs["p2"], inputs["z1"].detach(), inputs["z2"].detach()
    total = 0 * (p1.sum() + p2.sum())
    for p, z in ((p1, z2), (p2, z1)):
        for a, b in zip(p, z, strict=True):
            if a.any() and b.any():
                total = total - a @ b / (a.norm() * b.norm()) / 2
    return total / BATCH


def residuals(count: int) -> dict[str, Inputs]:
    """Residuals of several embeddings: some zero, some at right angles, some the same."""
    generator = torch.Generator().manual_seed(4)
    drawn = torch.randn(BATCH, count, DIM, generator=generator, dtype=torch.float64)
    special = drawn.clone()
    special[0] = 0
    special[1, 0] = 0
    special[2] = 3 * torch.eye(count, DIM)
    special[3] = special[3, :1]
    return {"random": {"r": drawn}, "special": {"r": special}}


def share_of_diversity(module: nn.Module, inputs: Inputs) -> Tensor:
    return diversity(inputs["r"])


def naive_diversity(module: nn.Module, inputs: Inputs) -> Tensor:
    total = 0 * inputs["r"].sum()
    for residuals in inputs["r"]:
        squares = 0 * residuals.sum()
        for i, a in enumerate(residuals):
            for j, b in enumerate(residuals):
                if i != j and a.any() and b.any():
                    squares = squares + (a @ b / (a.norm() * b.norm())) ** 2
        if squares > 0:
            total = total + squares.sqrt() / len(residuals) ** 2
    return total / BATCH


def share_of_discrepancy(module: nn.Module, inputs: Inputs) -> Tensor:
    return maximum_mean_discrepancy(inputs["x"], inputs["y"], gamma=0.5, tile=TILE)


def naive_discrepancy(module: nn.Module, inputs: Inputs) -> Tensor:
    x, y = inputs["x"].reshape(-1, DIM), inputs["y"].reshape(-1, DIM)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squares = (a[:, None] - b).square().sum(2)
        zero = squares == 0
        return (-0.5 * squares.masked_fill(zero, 1).sqrt()).exp().masked_fill(zero, 1).mean()

    return kernel(x, x) - 2 * kernel(x, y) + kernel(y, y)


def discrepancy_batches() -> dict[str, Inputs]:
    made = {name: {"x": b["x"], "y": b["y"]} for name, b in pair_batches().items()}
    again = {side: values.clone() for side, values in made["random"].items()}
    again["x"][[3, 20, 22]] = again["x"][[4, 5, 5]]
    again["y"][[3, 7, 23]] = again["x"][[3, 8, 5]]
    generator = torch.Generator().manual_seed(6)
    x, y = torch.randn(2, BATCH, 2, DIM, generator=generator, dtype=torch.float64)
    return made | {"rows again": again, "two embeddings": {"x": x, "y": y}}


CASES = [
    Case("negative cosine", NegativeCosine, share_of_cosines, naive_cosines, four(pair_batches())),
    *(
        Case(
            f"diversity of {count}",
            nn.Module,
            share_of_diversity,
            naive_diversity,
            residuals(count),
        )
        for count in (1, 2, 4)
    ),
    Case(
        "maximum mean discrepancy",
        nn.Module,
        share_of_discrepancy,
        naive_discrepancy,
        discrepancy_batches(),
    ),
]
