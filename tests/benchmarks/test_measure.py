"""The sides that benchmarks compare are the same objective."""

import pytest
import torch

from benchmarks.measure import OBJECTIVES, both_ways, inputs_of, measure


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if "naive" in OBJECTIVES[name]])
def test_both_sides_have_one_value_and_one_gradient(objective: str) -> None:
    found = []
    for side in ("ours", "naive"):
        x, y = inputs_of(objective)(96, 16, 0, 1)
        value = both_ways(OBJECTIVES[objective][side](0, 1), x, y)
        assert x.grad is not None
        found.append((value.detach(), x.grad, y.grad))
    for ours, naive in zip(*found, strict=True):
        torch.testing.assert_close(ours, naive, rtol=1e-4, atol=1e-6)


def test_memory_is_what_was_taken() -> None:
    def take() -> torch.Tensor:
        return torch.ones(64 * 2**18).sum()  # 64 MiB

    assert 60 < measure(take)["memory"] < 80
