"""Waits of a training step for its device: one, later, for the values that are logged."""

import traceback
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.launch.methods import RECIPES
from tests.pretended_device import NAME, PretendedDevice, to_device, values_of
from tests.processes import on_ranks
from tests.training.step_cases import BATCH, CASES, VOCABULARY, batch_of
from xmodal.assembly.recipe import read_recipe
from xmodal.components.config import Span
from xmodal.methods.config import MethodConfig
from xmodal.methods.method import Method
from xmodal.objectives.config import ObjectiveConfig
from xmodal.training.clipping import clip_before_steps
from xmodal.training.config import StageConfig
from xmodal.training.ema import averages_of, keep_average
from xmodal.training.parts import parameter_groups, select_trained
from xmodal.training.timeline import Timeline
from xmodal.training.trainer import Trainer

# How many pairs the id of most pairs has: the number of limits that scores are compared with.
LARGEST_ID = "aten._local_scalar_dense objectives/pairwise/positives.py:"
TWO_RANKS = (
    "clip, queue",
    "clip, queue of a momentum encoder",
    "mite, adversarial",
    "uncsm, joint",
    "ptf_simcm, main",
    "dim, main",
)
MICRO_BATCH = 5  # the rest is 3: batch normalisation over 2 would amplify rounding a hundredfold
STEPS = [(case, BATCH) for case in CASES]
STEPS += [
    (case, MICRO_BATCH)
    for case in CASES
    if not case.startswith("clip, ") or case == "clip, info_nce"
]


class Engine:
    """What a step asks of DeepSpeed's engine, without its own waits."""

    def __init__(self, method: Method, stage: StageConfig) -> None:
        self.module, self.device = method, next(method.parameters()).device
        self.optimizer = stage.optimizer.build(parameter_groups(method, stage))
        for key in averages_of(stage, method):
            keep_average(self.optimizer, key)
        clip_before_steps(self.optimizer, method, stage.clip_norm)

    def __call__(self, compute: Any) -> Any:
        return self.module(compute)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def set_gradient_accumulation_boundary(self, is_boundary: bool) -> None:
        pass

    def zero_optimization_stage(self) -> int:
        return 0

    def get_global_grad_norm(self) -> Tensor:
        norm: Tensor = self.optimizer._global_grad_norm
        return norm

    def step(self) -> None:
        self.gradients = {
            name: values_of(weight.grad)
            for name, weight in self.module.named_parameters()
            if weight.grad is not None
        }
        self.optimizer.step()
        self.optimizer.zero_grad()


def trainer_of(stage: StageConfig, micro_batch: int) -> Any:
    """What `_step` asks of a trainer that trains one stage of ten steps."""
    stage = stage.model_copy(update={"length": Span("10 steps")})
    trainer: Any = object.__new__(Trainer)
    trainer.timeline = Timeline(
        [stage],
        batch_size=BATCH,
        epoch_samples=BATCH,
        evaluate_every=Span("0 steps"),
        checkpoint_every=Span("0 steps"),
    )
    trainer.training = SimpleNamespace(seed=0)
    trainer.progress = SimpleNamespace(step=3)
    trainer.dataset = SimpleNamespace(augmented=lambda batch: batch)
    trainer.micro_batch_size = micro_batch
    trainer.preemption = SimpleNamespace(asked=False)
    trainer.checkpointing = SimpleNamespace(is_written=lambda: False)
    return trainer


@dataclass(frozen=True)
class Taken:
    """A step: values, gradients, what the host waited for, what it read, what objectives drew."""

    values: dict[str, float]
    gradients: dict[str, Tensor]
    waits: list[str]
    reads: list[str]
    draws: list[str]


def take(case: str, micro_batch: int, *, on_device: bool, spoil: bool = False) -> Taken:
    """Take a step of a case, on the host or on the pretended device."""
    kind, words, number = CASES[case]
    recipe = read_recipe(kind, list(words), RECIPES)
    torch.manual_seed(0)
    method = recipe.method.build(vocabulary=VOCABULARY, bf16=False)
    stage = recipe.stages[number]
    select_trained(method, stage.train, stage.lock)
    method.begin_stage(tuple(stage.losses))
    method.make_room(BATCH)
    batch, device = batch_of(method, recipe), PretendedDevice()
    with device if on_device else nullcontext():
        if on_device:
            to_device(method)
            batch = batch.to(torch.device(NAME, 0))
        if spoil:
            method.register_forward_pre_hook(wait)
        trainer = trainer_of(stage, micro_batch)
        engine = Engine(method, stage)
        report = trainer._step(engine, batch, trainer.timeline.stages[0])
    report.read(1)
    return Taken(report.values, engine.gradients, device.waits, device.reads, device.draws)


def wait(method: Method, _: object) -> None:
    """Look at a value of the device, as code of a method must not."""
    next(method.parameters()).sum().item()


def take_all() -> dict[str, Taken | str]:
    """Take a step of every case by micro-batches and whole; a traceback where that fails."""
    found: dict[str, Taken | str] = {}
    for case, micro_batch in STEPS:
        try:
            found[f"{case}, {micro_batch}"] = take(case, micro_batch, on_device=True)
        except Exception:
            found[f"{case}, {micro_batch}"] = traceback.format_exc()
    return found


@pytest.fixture(scope="module")
def taken() -> dict[str, Taken | str]:
    """Steps on the pretended device, which lives in a process of its own."""
    return on_ranks(1, take_all)[0]


@pytest.mark.parametrize(("case", "micro_batch"), STEPS)
def test_a_step_waits_for_nothing_and_is_read_once(
    case: str, micro_batch: int, taken: dict[str, Taken | str]
) -> None:
    found = taken[f"{case}, {micro_batch}"]
    assert isinstance(found, Taken), found
    counted = [one for one in found.waits if one.startswith(LARGEST_ID)]
    assert len(counted) == ("smooth_ap, counted" in case)
    assert len(found.waits) == len(counted)
    assert not found.draws
    assert len(found.reads) == 1
    expected = take(case, micro_batch, on_device=False)
    assert found.values == pytest.approx(expected.values, rel=1e-4, abs=1e-6)
    rounding = 1e-5 * max(1, expected.values["grad_norm"])
    torch.testing.assert_close(found.gradients, expected.gradients, rtol=1e-3, atol=rounding)


def test_every_objective_and_method_takes_a_step_here() -> None:
    recipes = [read_recipe(kind, list(words), RECIPES) for kind, words, _ in CASES.values()]
    methods = [one.method for one in recipes]
    objectives = [getattr(one, "objective", None) for one in methods]
    kinds = {one.kind for one in objectives if isinstance(one, ObjectiveConfig)}
    assert kinds == set(ObjectiveConfig.kinds)
    assert {one.kind for one in methods} == set(MethodConfig.kinds)


@pytest.mark.parametrize("case", TWO_RANKS)
def test_ranks_exchange_what_they_need_without_waiting(case: str) -> None:
    for found in on_ranks(2, partial(take, on_device=True), case, 3):
        assert found.waits == []
        assert len(found.reads) == 1


def draw_on_device() -> list[str]:
    """Draw as an objective must not: another device draws other numbers."""
    source, drawn = "lambda like: torch.rand(3, device=like.device)", PretendedDevice()
    draw = eval(compile(source, "/xmodal/objectives/one.py", "eval"), {"torch": torch})
    with drawn:
        draw(torch.ones(3).to(torch.device(NAME, 0)))
    return drawn.draws


def test_a_draw_is_seen() -> None:
    ((drawn,),) = on_ranks(1, draw_on_device)
    assert "aten.rand" in drawn


def test_a_wait_is_seen() -> None:
    (found,) = on_ranks(1, partial(take, on_device=True, spoil=True), *STEPS[0])
    assert "_local_scalar_dense" in found.waits[0]
