import pytest
import torch
import torch.nn.functional as F

from xmodal.objectives.info_nce import InfoNCE
from xmodal.objectives.soft_relevance import SoftRelevance


def test_without_soft_targets_it_is_info_nce_with_all_positives() -> None:
    x, y = F.normalize(torch.randn(2, 12, 5, generator=torch.Generator().manual_seed(0)), dim=2)
    ids = torch.arange(12) // 2
    expected = InfoNCE(scale=5, positives="same_id")(x, y, ids)
    torch.testing.assert_close(SoftRelevance(scale=5, weight=0)(x, y, ids), expected)


def test_a_caption_that_says_the_same_is_as_relevant() -> None:
    """Two pairs alike and one apart: all is perfect where the first two share their targets."""
    y = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    alike = SoftRelevance(scale=100, weight=1, temperature=0.01)(y, y)
    hard = SoftRelevance(scale=100, weight=0)(y, y)
    # ln 2 of the two of them either way: soft targets leave no gradient there.
    assert alike.item() == pytest.approx(hard.item(), abs=1e-4)
    x = y.clone().requires_grad_()
    SoftRelevance(scale=100, weight=1, temperature=0.01)(x, y).backward()
    assert x.grad.abs().max() < 1e-4


def test_targets_have_no_gradient() -> None:
    u = torch.randn(3, 4, requires_grad=True)
    SoftRelevance(weight=0.5)(torch.eye(3), torch.eye(3), None, u).backward()
    assert u.grad is None
