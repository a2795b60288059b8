import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from xmodal.objectives.sigmoid import Sigmoid


def test_a_new_objective_has_the_scale_and_bias_of_the_recipe() -> None:
    loss = Sigmoid()
    assert {name: p.shape for name, p in loss.named_parameters()} == {
        "log_scale": (1,),
        "bias": (1,),
    }
    torch.testing.assert_close(loss.log_scale.item(), math.log(10))
    assert loss.bias == -10
    assert Sigmoid(bias=-2.71).bias.item() == pytest.approx(-2.71)
    loss(torch.eye(3), torch.eye(3), torch.arange(3))
    assert loss.monitors["temperature"].item() == pytest.approx(0.1)
    assert loss.monitors["bias"] == -10


def test_equal_scores_cost_a_positive_and_the_other_pairs_for_each_pair() -> None:
    """Divided by B: by B² the positives would count for ever less."""
    x = F.normalize(torch.ones(9, 4, dtype=torch.float64), dim=1)
    value = Sigmoid(scale=2, bias=-1).double()(x, x, torch.arange(9))
    expected = math.log(1 + math.exp(-1)) + 8 * math.log(1 + math.exp(1))
    assert value.item() == pytest.approx(expected, rel=1e-6)


def test_the_slope_agrees_with_finite_differences() -> None:
    loss = Sigmoid(scale=3, bias=-2, tile=2).double()
    ids = torch.tensor([0, 1, 2, 1, 4])

    def value(x: Tensor, y: Tensor, log_scale: Tensor, bias: Tensor) -> Tensor:
        given = {"log_scale": log_scale, "bias": bias}
        return torch.func.functional_call(loss, given, (x, y, ids))

    x, y = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    leaves = [x, y, *(p.detach() for p in loss.parameters())]
    assert torch.autograd.gradcheck(value, [leaf.requires_grad_() for leaf in leaves])


@pytest.mark.parametrize("score", [-200.0, -30.0, 0.0, 30.0, 200.0])
def test_single_precision_is_near_the_formula_at_any_score(score: float) -> None:
    """Of what a positive costs beside one negative, whose score is the opposite."""
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    loss = Sigmoid(scale=abs(score) or 1.0, bias=0.5)
    y = x.detach() * math.copysign(1, score) if score else x.detach() * 0
    value = loss(x, y, torch.arange(2))
    value.backward()
    sides = torch.tensor([-score - 0.5, -score + 0.5], dtype=torch.float64)
    expected = torch.logaddexp(sides, sides * 0).sum()
    torch.testing.assert_close(value.item(), expected.item(), rtol=1e-5, atol=1e-30)
    assert x.grad.isfinite().all()
    assert (value > 0) == (score < 104)  # below that, e⁻ˢ is a number of single precision


def test_a_bias_that_equals_the_imbalance_starts_at_the_best_constant() -> None:
    """−ln(B − 1) where scores say nothing: there the bias has no gradient."""
    loss = Sigmoid(bias=-math.log(15)).double()
    nothing = torch.zeros(16, 2, dtype=torch.float64)
    loss(nothing, nothing, torch.arange(16)).backward()
    assert abs(loss.bias.grad.item()) < 1e-7
