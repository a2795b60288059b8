"""Clipping without ZeRO is DeepSpeed's, to the last bit."""

import pytest
import torch
from torch import Tensor, nn

from tests.processes import on_ranks
from xmodal.training.clipping import clip_before_steps


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(0)
    found = [nn.Parameter(torch.randn(size)) for size in (3, 100, 7)]
    for one in found[:2]:
        one.grad = torch.randn_like(one)
    return found


def by_deepspeed(most: float) -> list[Tensor | None]:
    import deepspeed
    from deepspeed.runtime.utils import clip_grad_norm_

    deepspeed.init_distributed("gloo", verbose=False)
    found = parameters()
    clip_grad_norm_(found, most)
    return [one.grad for one in found]


@pytest.mark.parametrize("most", [0.3, 1e6])
def test_gradients_are_clipped_as_by_deepspeed(most: float) -> None:
    found = parameters()
    norm = torch.cat([one.grad for one in found[:2] if one.grad is not None]).norm()
    optimizer = torch.optim.SGD(found, lr=0.0)
    clip_before_steps(optimizer, nn.ParameterList(found), most)
    optimizer.step()
    torch.testing.assert_close(optimizer._global_grad_norm, norm)  # type: ignore[attr-defined]
    for theirs in on_ranks(2, by_deepspeed, most):
        for one, expected in zip(found, theirs, strict=True):
            assert (one.grad is None) == (expected is None)
            if expected is not None:
                torch.testing.assert_close(one.grad, expected, rtol=0, atol=0)


def test_without_a_bound_the_norm_alone_is_kept() -> None:
    found = parameters()
    before = found[1].grad.clone()  # type: ignore[union-attr]
    optimizer = torch.optim.SGD(found, lr=0.0)
    clip_before_steps(optimizer, nn.ParameterList(found), 0.0)
    optimizer.step()
    assert float(optimizer._global_grad_norm) > 1  # type: ignore[attr-defined]
    assert torch.equal(found[1].grad, before)  # type: ignore[arg-type]
