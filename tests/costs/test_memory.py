"""Storages count from the operation that makes them until nothing refers to them."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from xmodal.costs.memory import MemoryTracker

KB = 1024


def test_views_and_operations_in_place_need_nothing() -> None:
    with MemoryTracker() as memory:
        x = torch.zeros(256)
        y = x.view(16, 16).T.add_(1)
    assert memory.now.total() == memory.peak.total() == KB
    del x
    assert memory.now.total() == KB
    del y
    assert memory.now.total() == 0


def test_the_peak_is_of_one_moment_and_most_of_each_label() -> None:
    with MemoryTracker() as memory:
        with memory.holding("first"):
            x = torch.zeros(2 * 256)
        del x
        with memory.holding("second"):
            y = torch.zeros(3 * 256)
    assert y.numel()
    assert memory.peak == {"second": 3 * KB}
    assert memory.most == {"first": 2 * KB, "second": 3 * KB}


def test_a_storage_is_held_for_what_it_became() -> None:
    with MemoryTracker() as memory:
        weights = torch.zeros(256, requires_grad=True)
        with memory.holding("activations"):
            (weights * 2).sum().backward()
        assert weights.grad is not None
        memory.relabel(weights.grad, "gradients")
        memory.begin()
    assert memory.peak == {"other": KB, "gradients": KB}


def test_saved_activations_count_without_values() -> None:
    """Of y = (x · 2)³ the backward pass needs x · 2; the sum needs a number."""
    with FakeTensorMode(), MemoryTracker() as memory:
        x = torch.zeros(2**30, requires_grad=True)  # 4 GiB, which are never there
        loss = (x * 2).pow(3).sum()
        assert memory.now.total() == 2 * 4 * 2**30 + 4
    del loss
