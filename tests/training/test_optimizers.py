"""Optimisers: timm's by name, schedule-free ones, and those that ZeRO would change."""

from typing import Any

import pytest
import schedulefree
import torch
from torch import Tensor, nn

from xmodal.assembly.checks import check_optimizer
from xmodal.errors import UserError
from xmodal.runs.averages import AVERAGE
from xmodal.training.config import EMAConfig, StageConfig
from xmodal.training.ema import DECAY, decay_at, keep_average
from xmodal.training.optimizers.adam import AdamConfig
from xmodal.training.optimizers.adamw import AdamWConfig
from xmodal.training.optimizers.config import OptimizerConfig
from xmodal.training.optimizers.schedule_free_adamw import ScheduleFreeAdamWConfig
from xmodal.training.optimizers.schedule_free_sgd import ScheduleFreeSGDConfig
from xmodal.training.optimizers.sgd import SGDConfig
from xmodal.training.optimizers.shares import works_on_shares
from xmodal.training.optimizers.timm_optimizer import TimmOptimizerConfig
from xmodal.training.parts import parameter_groups

RATES = [0.01, 0.02, 0.03, 0.03, 0.02, 0.01]


def timm(name: str, **keys: Any) -> TimmOptimizerConfig:
    return TimmOptimizerConfig(name=name, **keys)


@pytest.mark.parametrize(
    ("config", "works"),
    [
        *((config, True) for config in (AdamConfig(amsgrad=True), AdamWConfig(), SGDConfig())),
        *((config, True) for config in (ScheduleFreeAdamWConfig(), ScheduleFreeSGDConfig())),
        *((timm(name), True) for name in ("lion", "adan", "nadamw", "madgrad", "sgdw", "adopt")),
        *((timm(name), False) for name in ("muon", "adafactor", "adafactorbv", "lamb", "adamp")),
        *((timm(name), False) for name in ("sgdp", "novograd", "mars", "clion", "cadamw")),
        # It divides by norms where it decays.
        (timm("lars"), True),
        (timm("lars", weight_decay=0.1), False),
    ],
    ids=lambda one: getattr(one, "name", None) or getattr(one, "kind", None),
)
def test_shares_suit_optimisers_of_single_numbers(config: OptimizerConfig, works: bool) -> None:
    state = torch.get_rng_state()
    assert works_on_shares(config) == works
    assert torch.get_rng_state().equal(state)


def test_what_needs_matrices_is_refused_under_zero() -> None:
    check_optimizer(StageConfig(optimizer=timm("muon")), 0, "stages.0.optimizer")
    line = r"^stages.0.optimizer: a step of muon needs whole matrices, and training.zero=1 gives"
    with pytest.raises(UserError, match=line):
        check_optimizer(StageConfig(optimizer=timm("muon")), 1, "stages.0.optimizer")


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (timm("lyon"), r"optimizer.name: lyon is not allowed \(did you mean lion\?\); allowed: ad"),
        (timm("adahessian"), "optimizer.name: adahessian is not allowed"),
        (timm("lion", options={"beta": 1}), r"lion of timm cannot be made with options=\{'beta'"),
        (timm("lion", options={"betas": [2, 3]}), "Invalid beta parameter at index 0: 2"),
    ],
)
def test_a_mistake_is_one_line(config: OptimizerConfig, line: str) -> None:
    with pytest.raises(UserError, match=line) as caught:
        check_optimizer(StageConfig(optimizer=config), 0, "stages.0.optimizer")
    assert "\n" not in str(caught.value)


def test_muon_leaves_parts_to_adamw() -> None:
    towers = nn.ModuleDict({"embedding": nn.Embedding(8, 4), "layer": nn.Linear(4, 4)})
    config = timm("muon", lr=0.1, fallback=["embedding"], weight_decay=0.1)
    groups = parameter_groups(towers, StageConfig(optimizer=config))
    found = {name: one["use_fallback"] for one in groups for name in one["names"]}
    assert found == {"embedding.weight": True, "layer.weight": False, "layer.bias": False}
    optimizer = config.build(groups)
    for parameter in towers.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    by_muon = {
        name: optimizer.state[parameter]["use_muon"]
        for name, parameter in towers.named_parameters()
    }
    assert by_muon == {"embedding.weight": False, "layer.weight": True, "layer.bias": False}
    with pytest.raises(UserError, match=r"optimizer\.fallback: 'embeding' is no part"):
        parameter_groups(towers, StageConfig(optimizer=timm("muon", fallback=["embeding"])))


def gradient(weights: Tensor) -> Tensor:
    """Return the gradient of a quartic, so that it differs between the sequences."""
    return weights**3 - 2 * weights + 0.3


def schedule_free(config: OptimizerConfig, decay: float) -> tuple[Tensor, Tensor]:
    weights = nn.Parameter(torch.linspace(-1, 1, 12).view(3, 4))
    optimizer = config.build([{"params": [weights], "weight_decay": decay}])
    for rate in RATES:
        optimizer.param_groups[0]["lr"] = rate
        weights.grad = gradient(weights.detach())
        optimizer.step()
    return weights.detach(), optimizer.state[weights][AVERAGE]


def by_package(optimizer: Any, weights: Tensor) -> tuple[Tensor, Tensor]:
    optimizer.train()
    for rate in RATES:
        optimizer.param_groups[0]["lr"] = rate
        weights.grad = gradient(weights.detach())
        optimizer.step()
    trained = weights.detach().clone()
    optimizer.eval()
    return trained, weights.detach()


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_schedule_free_is_that_of_the_package(decay: float) -> None:
    first = torch.linspace(-1, 1, 12).view(3, 4)
    weights = nn.Parameter(first.clone())
    theirs: Any = schedulefree.AdamWScheduleFree([weights], betas=(0.8, 0.99), weight_decay=decay)
    ours = schedule_free(ScheduleFreeAdamWConfig(betas=(0.8, 0.99), weight_decay=decay), decay)
    torch.testing.assert_close(ours, by_package(theirs, weights), rtol=1e-5, atol=1e-6)
    weights = nn.Parameter(first.clone())
    theirs = schedulefree.SGDScheduleFree([weights], momentum=0.8, weight_decay=decay)
    ours = schedule_free(ScheduleFreeSGDConfig(momentum=0.8, weight_decay=decay), decay)
    torch.testing.assert_close(ours, by_package(theirs, weights), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(ours[0], ours[1])


def test_a_schedule_free_optimiser_has_no_other_average() -> None:
    with pytest.raises(ValueError, match="schedule_free_sgd averages the weights by itself"):
        StageConfig(ema=EMAConfig(), optimizer=ScheduleFreeSGDConfig())


def test_decay_rises_to_its_value() -> None:
    decays = [decay_at(EMAConfig(decay=0.6, warmup=3.0), steps) for steps in range(7)]
    assert decays == pytest.approx([0, 1 / 4, 2 / 5, 3 / 6, 4 / 7, 0.6, 0.6])
    assert [decay_at(EMAConfig(decay=0.9, warmup=0), steps) for steps in range(3)] == [0, 0.9, 0.9]
    assert decay_at(EMAConfig(warmup=1), 3) == pytest.approx(3 / 4)  # the mean of four


def test_weights_without_a_gradient_have_no_average_until_they_move() -> None:
    moved, rests = (nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = torch.optim.Adam([moved, rests], lr=0.1)
    keep_average(optimizer)
    optimizer.param_groups[0][DECAY.format(AVERAGE)] = 0.5
    moved.grad = torch.ones(2)
    optimizer.step()
    assert AVERAGE not in optimizer.state.get(rests, {})
    first = optimizer.state[moved][AVERAGE].clone()
    assert first.equal(moved)
    rests.grad = torch.ones(2)
    optimizer.step()
    assert optimizer.state[rests][AVERAGE].equal(rests)
    torch.testing.assert_close(optimizer.state[moved][AVERAGE], (first + moved) / 2)
