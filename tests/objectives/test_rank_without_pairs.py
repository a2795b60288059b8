"""Objectives where a rank has no pairs, as at the end of an evaluation or of uneven batches."""

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.processes import on_ranks
from xmodal.distributed.collectives import rank
from xmodal.objectives import (
    Circle,
    GlobalContrastive,
    InfoNCE,
    Margin,
    Matryoshka,
    MultiSimilarity,
    MutualInformation,
    Sigmoid,
    SmoothAp,
    SoftRelevance,
    SupervisedContrastive,
    Triplet,
)

PAIRS, WIDTHS = 6, (3, 7)
KINDS: dict[str, Any] = {
    **{
        kind.__name__: kind
        for kind in (
            *(InfoNCE, Sigmoid, Triplet, Circle, Margin, MultiSimilarity, SmoothAp),
            *(SoftRelevance, SupervisedContrastive),
        )
    },
    **{
        f"MutualInformation, {one}": partial(MutualInformation, estimator=one)
        for one in ("jsd", "dv", "nwj", "info_nce")
    },
    "GlobalContrastive": partial(GlobalContrastive, num_samples=PAIRS),
}
OF_WIDTHS = {
    name: partial(kind, num_widths=2) if name == "GlobalContrastive"
    else partial(kind, widths=WIDTHS) if name == "MutualInformation, dv"
    else kind
    for name, kind in KINDS.items()
}  # fmt: skip


def gradients() -> dict[str, tuple[Tensor, Tensor]]:
    """Of every objective by this rank's x: all pairs of the first rank, none of the second."""
    return {
        **{name: gradient(kind()) for name, kind in KINDS.items()},
        **{
            f"matryoshka of {name}": gradient(Matryoshka(widths=WIDTHS, objective=kind))
            for name, kind in OF_WIDTHS.items()
        },
    }


def gradient(objective: nn.Module) -> tuple[Tensor, Tensor]:
    rows = slice(None) if rank() == 0 else slice(0, 0)
    generator = torch.Generator().manual_seed(0)
    x, y = F.normalize(torch.randn(2, PAIRS, WIDTHS[-1], generator=generator), dim=2)
    leaf, samples = x[rows].clone().requires_grad_(), torch.arange(PAIRS)[rows]
    averages = [one for one in objective.modules() if isinstance(one, GlobalContrastive)]
    given = {"samples": samples} if averages else {}
    share = objective.double()(leaf.double(), y[rows].double(), samples // 2, **given)
    share.backward()
    assert leaf.grad is not None
    return share.detach(), leaf.grad


@pytest.fixture(scope="module")
def found() -> list[Any]:
    """Of all ranks, and of one rank alone."""
    return [*on_ranks(2, gradients), gradients()]


@pytest.mark.parametrize("name", [*KINDS, *(f"matryoshka of {name}" for name in OF_WIDTHS)])
def test_a_rank_without_pairs_changes_nothing(name: str, found: list[Any]) -> None:
    (of_first, first), (of_second, second), (value, alone) = (one[name] for one in found)
    torch.testing.assert_close((of_first + of_second) / 2, value)
    torch.testing.assert_close(first / 2, alone)
    assert second.shape == (0, WIDTHS[-1])
