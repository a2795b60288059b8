"""Size of an optimiser's state on a disk."""

from typing import Any

import pytest
import torch
from torch import nn

from xmodal.runs.averages import AVERAGE
from xmodal.training.ema import keep_average
from xmodal.training.state_on_disks import state_tensors


@pytest.mark.parametrize(
    ("kind", "options", "tensors"),
    [
        (torch.optim.AdamW, {}, 2),
        (torch.optim.Adam, {"amsgrad": True}, 3),
        (torch.optim.SGD, {"momentum": 0.9}, 1),
        (torch.optim.SGD, {}, 0),
    ],
)
def test_tensors_are_counted_by_a_step_that_changes_nothing(
    kind: Any, options: dict[str, Any], tensors: int
) -> None:
    weights = nn.Parameter(torch.ones(3, 4))
    optimizer = kind([{"params": [weights], "names": ["weights"]}], lr=0.1, **options)
    groups = optimizer.param_groups
    assert state_tensors(optimizer) == tensors
    keep_average(optimizer, AVERAGE)
    assert state_tensors(optimizer) == tensors + 1
    assert optimizer.param_groups is groups
    assert groups[0]["params"] == [weights]
    assert not optimizer.state
    assert torch.equal(weights, torch.ones(3, 4))
