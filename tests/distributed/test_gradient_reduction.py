"""Gradients that are reduced during the backward pass are the means over ranks."""

import pytest
import torch
from torch import Tensor, nn

from tests.processes import on_ranks
from xmodal.distributed.collectives import rank
from xmodal.distributed.gradient_reduction import OverlappingReduction


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 1))


def gradients_of(values: Tensor, *, earlier: Tensor) -> list[Tensor | None]:
    """Two passes: the first through three layers, the second through the first two of them."""
    layers = network()
    layers[1:](earlier).sum().backward()
    layers[1:3](values).square().sum().backward()
    return [one.grad for one in layers.parameters()]


def values_of(of_rank: int) -> Tensor:
    return torch.randn(7, 4, generator=torch.Generator().manual_seed(of_rank))


def reduced(
    bucket_size: int, dtype: torch.dtype, end: int = 3
) -> tuple[list[Tensor | None], int, int]:
    """Do the same with a reduction; count exchanges begun before and in the last pass."""
    layers, is_last = network(), False
    reduction = OverlappingReduction(
        layers.parameters(), bucket_size=bucket_size, dtype=dtype, is_last=lambda: is_last
    )
    for _ in range(2):  # steps
        layers.zero_grad()
        is_last = False
        layers[1:](values_of(10 + rank())).sum().backward()
        before = len(reduction.on_their_way)
        is_last = True
        layers[1:end](values_of(rank())).square().sum().backward()
        during = len(reduction.on_their_way)
        reduction.finish()
    reduction.close()
    return [one.grad for one in layers.parameters()], before, during


@pytest.mark.parametrize("bucket_size", [1, 36, 10_000])
def test_means_are_exact_of_layers_that_only_an_earlier_pass_reached_too(bucket_size: int) -> None:
    parts = [gradients_of(values_of(n), earlier=values_of(10 + n)) for n in range(3)]
    for found, before, _ in on_ranks(3, reduced, bucket_size, torch.float32):
        assert before == 0
        for got, grads in zip(found, zip(*parts, strict=True), strict=True):
            known = [one for one in grads if one is not None]
            expected = sum(known) / 3 if known else torch.zeros_like(got)
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_exchanges_begin_within_the_pass_once_all_before_them_have() -> None:
    # A pass to the last layer reaches three of four. One that ends before it sends nothing: the
    # last layer is first.
    for end, expected in ((4, 6), (3, 0)):
        assert [n for *_, n in on_ranks(2, reduced, 1, torch.float32, end)] == [expected] * 2


def test_bf16_halves_what_is_sent_and_rounds_it() -> None:
    (exact, *_), _ = on_ranks(2, reduced, 36, torch.float32)
    (rounded, *_), _ = on_ranks(2, reduced, 36, torch.bfloat16)
    for one, other in zip(exact, rounded, strict=True):
        assert other.dtype == torch.float32
        torch.testing.assert_close(other, other.bfloat16().float(), rtol=0, atol=0)
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2)
