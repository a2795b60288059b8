"""Bytes that a rank sends, by hand."""

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from xmodal.costs.communication import CollectiveCounter, sent_by_engine
from xmodal.distributed.collectives import gather, sum_over_ranks

RANKS = 4


def test_collectives_of_a_ring() -> None:
    dist.init_process_group("fake", rank=0, world_size=RANKS, store=FakeStore())
    try:
        with CollectiveCounter(RANKS) as collectives:
            x = torch.zeros(8, 16, requires_grad=True)
            gather(x, [8] * RANKS).sum().backward()
            sum_over_ranks(torch.zeros(32))
    finally:
        dist.destroy_process_group()
    gathered = (RANKS - 1) * 8 * 16 * 4  # a rank sends what it has to each other one
    assert collectives.sent == {
        "allgather_base": gathered,
        "reduce_scatter_base": gathered,
        "allreduce": 2 * 32 * 4 * (RANKS - 1) // RANKS,
    }
    assert collectives.total == 2 * gathered + 192


def test_gradients_and_weights_by_the_stage_of_zero() -> None:
    def sent(zero: int, gradient_bytes: int = 4, weight_bytes: int = 4) -> tuple[int, int]:
        bytes_of = sent_by_engine(
            zero,
            RANKS,
            trained=1000,
            weights=2000,
            gradient_bytes=gradient_bytes,
            weight_bytes=weight_bytes,
            passes=3,
        )
        return bytes_of["gradients"], bytes_of["weights"]

    assert sent(0) == (6000, 0)
    assert sent(1) == (6000, 3000)
    assert sent(1, gradient_bytes=2) == (3000, 3000)
    assert sent(2, weight_bytes=2) == (3 * 6000, 1500)
    assert sent(2) == (3 * 6000, 3000)  # in each of three backward passes
    assert sent(3) == (3 * 3000, (3 + 2) * 6000)  # two passes without gradients
