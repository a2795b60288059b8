"""Opponents under DeepSpeed, whose parameters ZeRO 3 gathers only while a module is called."""

import os
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.processes import on_ranks
from xmodal.distributed.collectives import rank, world_size
from xmodal.models.adversary import ModalityClassifier
from xmodal.models.critics import PriorDiscriminator
from xmodal.objectives.adversarial import ModalityAdversary, ModalityClassification
from xmodal.objectives.prior import PriorMatching

RANKS, SHARE, STEPS = 2, 6, 3
DIM = 320  # so wide that ZeRO 3 shares out a (DIM, DIM) matrix, rather than keep it everywhere


class Method(nn.Module):
    """Two encoders with both opponents."""

    def __init__(self, encoders: str, penalty: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = nn.Linear(5, DIM), nn.Linear(4, DIM)
        self.classifier = ModalityClassifier(DIM, (DIM, 8), scale=False)
        self.discriminator = PriorDiscriminator(DIM, (DIM, 8))
        self.classification = ModalityClassification(penalty=penalty)
        self.adversary = ModalityAdversary(encoders=encoders)
        self.prior = PriorMatching(weight=1, penalty=penalty)

    def forward(self, images: Tensor, texts: Tensor, step: int) -> Tensor:
        v, t = self.image(images), self.text(texts)
        modality = self.classification(v, t, self.classifier, step)
        modality = modality + self.adversary(v, t, self.classifier)
        return modality + self.prior(v, self.discriminator, step)


def inputs(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    rows = RANKS * SHARE
    return torch.randn(rows, 5, generator=generator), torch.randn(rows, 4, generator=generator)


def adam(method: nn.Module) -> torch.optim.Optimizer:
    # An eps far above the gradients makes a step linear in them: a factor does not go unnoticed.
    return torch.optim.Adam(method.parameters(), lr=1.0, eps=1.0)


def sharded(encoders: str, penalty: float, zero: int) -> dict[str, Tensor]:
    """The weights after training by DeepSpeed: what a rank does."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # nothing to compile
    os.environ["LOCAL_RANK"] = str(rank())
    method = Method(encoders, penalty)
    config = {
        "train_batch_size": SHARE * world_size(),
        "train_micro_batch_size_per_gpu": SHARE,
        "zero_optimization": {"stage": zero},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    engine: Any = deepspeed.initialize(model=method, optimizer=adam(method), config=config)[0]
    for step in range(STEPS):
        own = [side[rank() :: world_size()] for side in inputs(step)]
        engine.backward(engine(*own, step))
        engine.step()
    with deepspeed.zero.GatheredParameters(list(engine.module.parameters())):
        return {name: value.clone() for name, value in engine.module.state_dict().items()}


def plain(encoders: str, penalty: float) -> dict[str, Tensor]:
    method = Method(encoders, penalty)
    optimiser = adam(method)
    for step in range(STEPS):
        optimiser.zero_grad()
        method(*inputs(step), step).backward()
        optimiser.step()
    return method.state_dict()


@pytest.mark.parametrize(
    "zero", [*(pytest.param(zero, marks=pytest.mark.slow) for zero in (0, 1, 2)), 3]
)
@pytest.mark.parametrize(
    ("encoders", "penalty"), [("reversal", 0.0), ("flipped", 0.0), ("confusion", 1.0)]
)
def test_training_is_that_of_one_process(encoders: str, penalty: float, zero: int) -> None:
    start, expected = Method(encoders, penalty).state_dict(), plain(encoders, penalty)
    for trained in on_ranks(RANKS, sharded, encoders, penalty, zero):
        for name, value in expected.items():
            way = (value - start[name]).abs().max()
            assert way > 1e-4, f"{name} does not move"
            difference = (trained[name] - value).abs().max()
            assert difference <= 1e-4 * way, f"{name} differs by {difference} after {way}"
