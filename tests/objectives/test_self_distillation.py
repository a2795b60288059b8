import torch
from torch import Tensor

from tests.processes import on_ranks
from xmodal.distributed.collectives import rank
from xmodal.objectives.self_distillation import NegativeCosine


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_views_that_agree_cost_minus_one() -> None:
    x = drawn(6, 4)
    torch.testing.assert_close(NegativeCosine()(x, 2 * x, 3 * x, x).item(), -1.0)
    torch.testing.assert_close(NegativeCosine()(x, x, -x, -x).item(), 1.0)


def test_gradients_stop_at_projections() -> None:
    p1, p2, z1, z2 = (drawn(6, 4, seed=seed).requires_grad_() for seed in range(4))
    NegativeCosine()(p1, p2, z1, z2).backward()
    assert p1.grad.any()
    assert p2.grad.any()
    assert z1.grad is None
    assert z2.grad is None


def test_gradients_are_those_of_differences() -> None:
    inputs = tuple(drawn(3, 4, seed=seed).requires_grad_() for seed in range(2))
    loss, z1, z2 = NegativeCosine(), drawn(3, 4, seed=2), drawn(3, 4, seed=3)
    assert torch.autograd.gradcheck(lambda p1, p2: loss(p1, p2, z1, z2), inputs)


def std_of(z: Tensor) -> float:
    loss = NegativeCosine()
    loss(z, z, z, z)
    return loss.monitors["channel_std"].item()


def test_the_monitor_tells_collapse_from_health() -> None:
    assert abs(std_of(drawn(4000, 64)) * 8 - 1) < 0.01
    assert std_of(drawn(1, 64).repeat(50, 1)) < 1e-12


def std_of_part() -> float:
    return std_of(drawn(9, 5).split([2, 7])[rank()])


def test_the_monitor_is_that_of_the_global_batch() -> None:
    whole = drawn(9, 5)
    unit = whole / whole.norm(dim=1, keepdim=True)
    expected = unit.std(0, correction=0).mean().item()
    for got in (std_of(whole), *on_ranks(2, std_of_part)):
        torch.testing.assert_close(got, expected)
