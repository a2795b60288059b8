"""What the table of tests/objectives/test_equivalence.py is made of.

A case is an objective and the formula it stands for, written plainly over the whole batch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.distributed.collectives import rank

Inputs = dict[str, Tensor]  # by name, a row a sample; what is floating point has a gradient
Objective = Callable[[nn.Module, Inputs], Tensor]

BATCH, DIM = 24, 7
# How a batch may be cut among ranks: alike, and with different numbers, one of them 0.
CUTS = {1: [[24]], 2: [[12, 12], [9, 15], [24, 0]], 4: [[6, 6, 6, 6], [7, 0, 13, 4]]}


@dataclass(frozen=True)
class Case:
    """An objective, the same over the rows of ranks and over the whole batch."""

    name: str
    module: Callable[[], nn.Module]  # makes it, with the same parameters each time
    share: Objective  # a rank's share, of its rows
    naive: Objective  # the value, of all rows, by full matrices and plain autograd
    batches: dict[str, Inputs]  # whole batches by name
    dealt: bool = False  # their rows to ranks in turn, as the loader does: what is drawn by place

    def rows(self, cut: list[int]) -> list[Tensor]:
        """Return which rows of a batch each rank has, of as many as the cut says."""
        if not self.dealt:
            return list(torch.arange(sum(cut)).split(cut))
        turns = sorted((turn, one) for one, count in enumerate(cut) for turn in range(count))
        ranks = torch.tensor([one for _, one in turns])
        return [(ranks == one).nonzero()[:, 0] for one in range(len(cut))]


@dataclass(frozen=True)
class Result:
    """A value and its gradients by every input and parameter."""

    value: Tensor
    gradients: dict[str, Tensor]


def pair_batches() -> dict[str, Inputs]:
    """Batches of pairs x, y with ids: what they have in them, by name."""
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, BATCH, DIM, generator=generator, dtype=torch.float64)
    x, y = F.normalize(x, dim=1), F.normalize(x + noise, dim=1)
    ids = torch.randperm(BATCH, generator=generator) - 2**62
    whole = torch.randint(-2, 3, (2, BATCH, DIM), generator=generator).double()
    again = ids.clone()
    again[[1, 4, 20, 23]] = again[[0, 3, 3, 7]]
    return {
        "random": {"x": x, "y": y, "ids": ids},
        "an image twice": {"x": x, "y": y, "ids": again},
        "five labels": {"x": x, "y": y, "ids": ids % 5},
        "one label": {"x": x, "y": y, "ids": ids * 0},
        "scores of 100": {"x": 10 * x, "y": 10 * y, "ids": again},
        # Products of whole numbers are exact: their ties are ties in every engine.
        "ties": {"x": whole[0], "y": whole[1], "ids": again},
        "all alike": {"x": x[:1].repeat(BATCH, 1), "y": x[:1].repeat(BATCH, 1), "ids": ids},
        "easy positives": {"x": 6 * x, "y": 6 * x, "ids": ids},
    }


def differentiate(objective: Objective, module: nn.Module, inputs: Inputs) -> Result:
    """Return an objective's value and the gradients of all that it depends on."""
    module.zero_grad()
    inputs = {
        name: values.clone().requires_grad_(values.is_floating_point())
        for name, values in inputs.items()
    }
    value = objective(module, inputs)
    value.backward()
    leaves = {name: values for name, values in inputs.items() if values.requires_grad}
    leaves |= dict(module.named_parameters())
    gradients = {
        name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        for name, leaf in leaves.items()
    }
    return Result(value.detach(), {name: gradient.clone() for name, gradient in gradients.items()})


def share_of_batches(case: Case, cut: list[int]) -> dict[str, Result]:
    """Return what this rank makes of its rows of each batch."""
    rows = case.rows(cut)[rank()]
    return {
        name: differentiate(
            case.share,
            case.module(),
            {key: values[rows] for key, values in inputs.items()},
        )
        for name, inputs in case.batches.items()
    }


def together(shares: list[Result], rows: list[Tensor], inputs: Inputs) -> Result:
    """Return the value and gradients that training makes of shares: means over ranks.

    `rows` are those of each rank. What an input passes on to the weights is divided by the ranks
    with the weights' own gradient.
    """
    order = torch.cat(rows).argsort()
    return Result(
        torch.stack([share.value for share in shares]).mean(0),
        {
            name: (
                torch.cat([share.gradients[name] for share in shares])[order] / len(shares)
                if name in inputs
                else torch.stack([share.gradients[name] for share in shares]).mean(0)
            )
            for name in shares[0].gradients
        },
    )


def in_single(inputs: Inputs, device: str = "cuda") -> Inputs:
    """Return inputs on a device, in single precision."""
    return {
        name: values.to(device, torch.float32 if values.is_floating_point() else None)
        for name, values in inputs.items()
    }


def on_cpu(result: Result) -> Result:
    """Return what `in_single` led to, in double precision again."""
    gradients = {name: values.double().cpu() for name, values in result.gradients.items()}
    return Result(result.value.double().cpu(), gradients)


def assert_equal_in_single(case: Case, name: str, got: Result) -> None:
    """Check what single precision makes of a batch of a case against the formula in double.

    It may be off as the formula itself is in single precision, times 16 for another order of
    summation. A value is a difference of scores and their log-sum-exp, of which each is rounded.
    """
    inputs = case.batches[name]
    expected = differentiate(case.naive, case.module(), inputs)
    single = on_cpu(differentiate(case.naive, case.module().float(), in_single(inputs, "cpu")))
    unit = torch.finfo(torch.float32).eps / 2
    module = case.module()
    scale = dict(module.named_parameters()).get("log_scale", torch.zeros(1)).exp().max()
    scale = max(scale, getattr(module, "teacher_scale", 0))
    score = scale * inputs["x"].norm(dim=-1).max() * inputs["y"].norm(dim=-1).max()
    for key, ours, naive, plain, least in (
        ("value", got.value, expected.value, single.value, 4 * unit * (1 + score)),
        *(
            (key, got.gradients[key], gradient, single.gradients[key], 0)
            for key, gradient in expected.gradients.items()
        ),
    ):
        allowed = 16 * (plain - naive).abs().max() + 16 * unit * naive.abs().max() + least
        assert (ours - naive).abs().max() <= allowed, f"{case.name}, {name}: {key}"


def assert_equal(got: Result, expected: Result, *, where: str, tolerance: float = 1e-10) -> None:
    """Check value and gradients to `tolerance` of the largest entry."""
    pairs = {"value": (got.value, expected.value)} | {
        name: (got.gradients[name], gradient) for name, gradient in expected.gradients.items()
    }
    for name, (ours, naive) in pairs.items():
        assert ours.isfinite().all(), f"{where}: {name} is not finite"
        difference, largest = (ours - naive).abs().max(), naive.abs().max()
        # Where all cancels, what is left is the rounding of scores of up to 100.
        assert difference <= tolerance * max(largest, 1e-3), (
            f"{where}: {name} differs by {difference} of {largest}"
        )
