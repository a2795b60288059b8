"""Waits of a step by DeepSpeed's engines for the device: none for values of it, nor for streams.

What is launched on a stream is computed here as late as may be: on those of DeepSpeed in one run,
on the default one in another.
"""

import os
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.pretended_accelerator import accelerate
from tests.pretended_device import NAME, PretendedDevice, to_device
from tests.processes import on_ranks
from xmodal.distributed.collectives import rank, world_size
from xmodal.training.config import StageConfig, TrainingConfig
from xmodal.training.engine import close_engine, initialize_engine

BATCH = 4
# Options of an engine, the norm it clips to, and what DeepSpeed waits for: by events of what it
# launched some layers before it bounds memory.
ENGINES: dict[str, tuple[dict[str, Any], float, set[str]]] = {
    "1": ({"zero": 1}, 0.1, set()),
    "1, not clipped": ({"zero": 1}, 0.0, set()),
    "1, overlap": ({"zero": {"stage": 1, "overlap": True}}, 0.1, set()),
    "2, bf16": ({"zero": 2, "precision": "bf16_weights"}, 0.1, set()),
    "2, overlap": ({"zero": {"stage": 2, "overlap": True}}, 0.1, set()),
    "2, overlap, small buckets": (
        {"zero": {"stage": 2, "overlap": True, "bucket_size": 4}},
        0.1,
        set(),
    ),
    "3": ({"zero": 3}, 0.1, {"event"}),
    "3, bf16, not clipped": ({"zero": 3, "precision": "bf16_weights"}, 0.0, {"event"}),
    "3, gathered": ({"zero": {"stage": 3, "persistence_threshold": 0}}, 0.1, {"event"}),
    "3, some gathered": ({"zero": {"stage": 3, "persistence_threshold": 5}}, 0.1, {"event"}),
}


def train_by_zero(
    *, on_device: bool, late_default: bool = False
) -> dict[str, tuple[list[str], list[Tensor]]]:
    """Take steps with DeepSpeed's engines: waits of the last, norms and weights after each."""
    device = PretendedDevice(is_late=late_default)
    if on_device:
        accelerate(device)
    os.environ["LOCAL_RANK"] = str(rank())
    return {
        name: steps_by_zero(device, options, clip, on_device=on_device)
        for name, (options, clip, _) in ENGINES.items()
    }


def steps_by_zero(
    device: PretendedDevice, options: dict[str, Any], clip: float, *, on_device: bool
) -> tuple[list[str], list[Tensor]]:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 2))
    layers.momentum = None  # as a method without a momentum encoder
    stage = StageConfig.model_validate({"clip_norm": clip, "optimizer": {"lr": 0.1, "eps": 1}})
    training = TrainingConfig.model_validate(options)
    rows, found = torch.randn(2, BATCH, 3) * (1 + rank()), list[Tensor]()
    with device if on_device else nullcontext():
        if on_device:
            to_device(layers)
            rows = rows.to(torch.device(NAME, 0))
        engine = initialize_engine(layers, stage, training, BATCH * world_size(), world_size())
        for _ in range(3):  # in the first two ZeRO 3 agrees on the order of modules
            device.waits.clear()
            found.append(step(engine, rows))
        waits = list(device.waits)
        with torch.no_grad():
            found.append(engine(rows[0].to(engine.module[0].weight.dtype)))
        # Not before: a read would have the default stream finish.
        found = [one.float().to("cpu", non_blocking=True) for one in found]
        assert step(engine, rows * torch.inf).to("cpu", non_blocking=True).isposinf()
        close_engine(engine)
    return waits, found


def step(engine: Any, rows: Tensor) -> Tensor:
    """Take a step of two micro-batches; return its norm of gradients."""
    for number, part in enumerate(rows.to(engine.module[0].weight.dtype)):
        engine.set_gradient_accumulation_boundary(number == 1)
        engine.backward(engine(part).square().mean())
    engine.step()
    return torch.as_tensor(engine.get_global_grad_norm())


@pytest.fixture(scope="module")
def by_zero() -> list[Any]:
    """Two ranks on the pretended device, each kind of stream late in turn, and on the host."""
    given = ({"on_device": True}, {"on_device": True, "late_default": True}, {"on_device": False})
    return [on_ranks(2, partial(train_by_zero, **one))[0] for one in given]


@pytest.mark.parametrize("name", ENGINES)
def test_a_step_by_zero_reads_nothing(name: str, by_zero: list[Any]) -> None:
    *on_device, (_, expected) = (one[name] for one in by_zero)
    for waits, found in on_device:
        assert set(waits) == ENGINES[name][2]
        torch.testing.assert_close(found, expected)
