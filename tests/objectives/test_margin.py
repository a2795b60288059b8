import pytest
import torch
from torch import Tensor

from xmodal.objectives.margin import Margin


def random_pairs(seed: int = 0, size: int = 6, dim: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, size, dim, generator=generator, dtype=torch.float64)
    return x, y


def test_the_slope_agrees_with_finite_differences() -> None:
    loss, ids = Margin(margin=1.8, tile=4), torch.tensor([0, 1, 2, 1, 1, 5])
    x, y = (side.requires_grad_() for side in random_pairs())
    assert torch.autograd.gradcheck(lambda x, y: loss(x, y, ids), (x, y))


def test_pairs_that_coincide_and_negatives_beyond_the_margin_cost_nothing() -> None:
    corners = torch.eye(4, dtype=torch.float64, requires_grad=True)
    value = Margin(margin=1.4)(corners, corners.detach(), torch.arange(4))
    value.backward()
    assert value.item() < 1e-28
    assert not corners.grad.any()


def test_a_value_by_hand() -> None:
    """Two pairs on a line, x at 0 and 3, y at 1 and 2; margin 4: ¼ (1 + 1 + (4 − 2)² + (4 − 2)²)"""
    x, y = torch.tensor([[0.0], [3.0]]), torch.tensor([[1.0], [2.0]])
    ids, one_id = torch.arange(2), torch.zeros(2, dtype=torch.int64)
    assert Margin(margin=4)(x, y, ids).item() == pytest.approx(2.5)
    assert Margin(margin=2)(x, y, ids).item() == pytest.approx(0.5)
    assert Margin(margin=9)(x, y, one_id).item() == pytest.approx(2.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_negatives_at_one_point_cost_the_margin_and_have_no_slope(dtype: torch.dtype) -> None:
    """Rounding leaves something of their distance, by which the slope is divided."""
    place = torch.randn(1, 300, generator=torch.Generator().manual_seed(0), dtype=dtype)
    x = (place / place.norm()).repeat(5, 1).requires_grad_()
    y = x.detach().clone()
    value = Margin()(x, y, torch.arange(5))
    value.backward()
    assert value == 2  # 1/(2·5) · 5·4 · 1²
    assert x.grad.abs().max() < 1e-6


def test_positives_in_single_precision_keep_the_little_that_they_are_apart() -> None:
    """|x|² + |y|² − 2 x·y would be 0 in it."""
    x = torch.ones(8, 4)
    y = x.clone()
    y[:, 0] += 1e-4
    value = Margin()(x, y, torch.zeros(8, dtype=torch.int64))
    assert value.item() == pytest.approx(8 * 1e-8 / 2, rel=1e-2)


def test_no_slope_grows_without_bounds_near_zero_distance() -> None:
    """|∂L/∂x| is at most the sum of hinges over B, here m (B − 1) / B, however near y is."""
    for nearness in torch.logspace(-8, 0, 60).tolist():
        x = torch.nn.functional.normalize(random_pairs(1, 8, 32)[0].float())[:1].repeat(4, 1)
        y = x + nearness * torch.randn(4, 32, generator=torch.Generator().manual_seed(2)) / 6
        x.requires_grad_()
        Margin()(x, y, torch.arange(4)).backward()
        assert x.grad.norm(dim=1).max() < 1.0 + nearness, nearness
