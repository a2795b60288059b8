import math

import pytest
import torch

from xmodal.objectives.multi_similarity import MultiSimilarity


def test_a_value_by_hand() -> None:
    """Scores 0.9 and 0.8 of pairs, 0.85 and 0.1 of others: of the second row the pair is easy."""
    x = torch.eye(2)
    y = torch.tensor([[0.9, 0.1], [0.85, 0.8]])
    p, n = (
        (lambda s: math.log1p(math.exp(-2 * (s - 0.5))) / 2),
        (lambda s: math.log1p(math.exp(10 * (s - 0.5))) / 10),
    )
    # Row 1: 0.9 against 0.85, both within ε. Row 2: 0.8 against 0.1. Column 1: 0.9 against 0.1.
    # Column 2: 0.8 against 0.85.
    expected = (p(0.9) + n(0.85) + 0 + 0 + p(0.8) + n(0.85)) / 4
    loss = MultiSimilarity(beta=10, threshold=0.5, epsilon=0.1)
    assert loss(x, y).item() == pytest.approx(expected, rel=1e-5)


def test_what_is_not_mined_has_no_gradient() -> None:
    corners = torch.eye(4, requires_grad=True)
    value = MultiSimilarity()(corners, corners.detach())
    value.backward()
    assert value == 0
    assert not corners.grad.any()
