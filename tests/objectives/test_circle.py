import pytest
import torch

from xmodal.objectives.circle import Circle


def test_the_gradient_is_the_papers() -> None:
    """Its equation 7: ∂L/∂s of one positive and one negative is Z γ α, by detached weights."""
    gamma, m = 7.0, 0.3
    x = torch.eye(2, dtype=torch.float64)
    y = torch.tensor([[0.6, 0.2], [0.1, 0.8]], dtype=torch.float64, requires_grad=True)
    Circle(scale=gamma, margin=m)(x, y).backward()
    scores = y.detach().T  # of x with y
    by_row = torch.zeros_like(scores)
    for lines, gradients in ((scores, by_row), (scores.T, by_row.T)):
        for i in range(2):
            positive, negative = lines[i, i], lines[i, 1 - i]
            exponent = gamma * (negative**2 - m**2 + (positive - 1) ** 2 - m**2)
            z = exponent.sigmoid() / 4  # the mean over two rows and two columns
            gradients[i, i] -= z * gamma * (1 + m - positive)
            gradients[i, 1 - i] += z * gamma * (negative + m)
    torch.testing.assert_close(y.grad, by_row.T)


def test_scores_at_their_optima_cost_little() -> None:
    corners = torch.eye(6)
    value = Circle()(corners, corners)
    # log(1 + 5 e^(−γ m²) e^(−γ m²))
    assert value.item() == pytest.approx(5 * torch.tensor(-2 * 80 * 0.16).exp().item(), rel=1e-2)
