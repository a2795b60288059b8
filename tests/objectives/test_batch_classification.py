import math

import pytest
import torch
from torch import Tensor

from xmodal.objectives.batch_classification import BatchClassification


def test_logits_begin_at_sixteen_times_the_cosine() -> None:
    """Of four orthogonal pairs of any length: log(1 + 3 e⁻¹⁶)."""
    loss = BatchClassification().double()
    corners = torch.eye(4, dtype=torch.float64)
    value = loss(5 * corners, corners / 3, torch.arange(4))
    assert value.item() == pytest.approx(math.log1p(3 * math.exp(-16)), rel=1e-9)
    assert loss.norm.shape == (1,)
    assert loss.monitors["norm"] == 4


def test_only_targets_compete() -> None:
    """Two queries of the first target's direction: the second query alone is wrong."""
    loss = BatchClassification(norm=1).double()
    x, y = torch.ones(2, 1).double(), torch.tensor([[1.0], [-1.0]]).double()
    value = loss(x, y, torch.arange(2))
    assert value.item() == pytest.approx((math.log1p(math.exp(-2)) + math.log1p(math.exp(2))) / 2)


def test_the_slope_agrees_with_finite_differences() -> None:
    loss = BatchClassification(tile=2).double()
    ids = torch.tensor([0, 1, 2, 1, 4])

    def value(x: Tensor, y: Tensor, norm: Tensor) -> Tensor:
        return torch.func.functional_call(loss, {"norm": norm}, (x, y, ids))

    x, y = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    leaves = [x, y, loss.norm.detach().clone()]
    assert torch.autograd.gradcheck(value, [leaf.requires_grad_() for leaf in leaves])


def test_targets_found_without_doubt_keep_their_slope_in_single_precision() -> None:
    loss = BatchClassification(norm=6)
    x = torch.eye(3, requires_grad=True)
    value = loss(x, x.detach(), torch.arange(3))
    value.backward()
    assert value.item() == pytest.approx(2 * math.exp(-36), rel=1e-4, abs=0)
    assert x.grad.any()
