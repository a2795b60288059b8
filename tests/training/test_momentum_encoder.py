"""Momentum encoder: what enters the queue is what an average of the weights makes of each batch."""

import copy
import os
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.processes import on_ranks
from xmodal.data.batch import Batch
from xmodal.distributed.collectives import mean_of_shares, rank, sum_over_ranks, world_size
from xmodal.methods.clip import Clip, ClipConfig
from xmodal.runs.averages import MOMENTUM as MOMENTUM_ENCODER
from xmodal.runs.averages import averaged
from xmodal.training.config import StageConfig, TrainingConfig
from xmodal.training.ema import averages_of, decay_at, keep_average, set_decay
from xmodal.training.engine import close_engine, initialize_engine
from xmodal.training.gradient_cache import GradientCache
from xmodal.training.momentum_encoder import embed_by_momentum_encoder
from xmodal.training.parts import parameter_groups, select_trained, set_modes

BATCH, IMAGE, TEXT, DIM, SIZE, STEPS, MOMENTUM = 8, 6, 5, 4, 20, 7, 0.6
STAGE = StageConfig(train=["image.head", "text.head", "loss"], length="7 steps")
LOCKED = StageConfig(train=["text.head", "loss"], length="7 steps")


def clip(stage: StageConfig, of: str, *, normalise: bool) -> Clip:
    """Heads on features, and a queue of a momentum encoder, ready for a stage."""
    torch.manual_seed(0)
    head = {"normalise": "batch"} if normalise else {}
    config = ClipConfig.model_validate(
        {
            "image": {"kind": "features", "features": IMAGE},
            "text": {"kind": "features", "features": TEXT},
            "image_head": head,
            "text_head": head,
            "embedding": DIM,
            "queue": {"size": SIZE, "of": of, "start": 0.25, "momentum": MOMENTUM},
        }
    )
    method: Clip = config.build(vocabulary=0, bf16=False)
    method.make_room(0)
    select_trained(method, stage.train)
    set_modes(method, freeze_batch_norm=False)
    return method


class Engine:
    """The parts of DeepSpeed's engine that a step uses, in double precision."""

    def __init__(self, stage: StageConfig, of: str, *, normalise: bool) -> None:
        self.module = clip(stage, of, normalise=normalise).double()
        self.module.make_room(0)
        self.stage, self.device = stage, torch.device("cpu")
        self.optimizer = torch.optim.AdamW(parameter_groups(self.module, stage), lr=0.1)
        for key in averages_of(stage, self.module):
            keep_average(self.optimizer, key)

    def __call__(self, compute: Any) -> Any:
        return self.module(compute)

    def zero_optimization_stage(self) -> int:
        return 0

    def set_gradient_accumulation_boundary(self, is_last: bool) -> None:
        pass

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self) -> None:
        trained = {n: p for n, p in self.module.named_parameters() if p.requires_grad}
        for one in trained.values():
            one.grad = sum_over_ranks(one.grad) / world_size()
        self.gradients = {name: one.grad.clone() for name, one in trained.items()}
        self.optimizer.step()
        self.optimizer.zero_grad()


@dataclass
class Taken:
    """A step: its loss and gradients, and the state after it."""

    loss: Tensor
    gradients: dict[str, Tensor]
    state: dict[str, Tensor]


def batch(step: int) -> Batch:
    """The pairs of a step: ids come again after two steps, in the queue."""
    generator = torch.Generator().manual_seed(step)
    return Batch(
        image_features=torch.randn(BATCH, IMAGE, generator=generator, dtype=torch.float64),
        text_features=torch.randn(BATCH, TEXT, generator=generator, dtype=torch.float64),
        image_ids=(torch.arange(BATCH) + step * BATCH) % 19 // 2,
    )


def in_single(given: Batch) -> Batch:
    """Return a batch in single precision."""
    images, texts = given.image_features, given.text_features
    assert images is not None
    assert texts is not None
    return replace(given, image_features=images.float(), text_features=texts.float())


def steps_of(
    engine: Any, micro: int, first: int = 0, last: int = STEPS, *, in_double: bool = True
) -> list[Taken]:
    """Take steps as the trainer does, of this rank's rows."""
    rows, found = torch.arange(rank(), BATCH, world_size()), []
    for step in range(first, last):
        set_decay(engine, engine.stage, step)
        engine.module.on_step_start(step / STEPS, step)
        given = batch(step) if in_double else in_single(batch(step))
        cache = GradientCache(engine, given.rows(rows).cut(micro), (step,))
        (loss,) = cache.forward().values()
        cache.backward(loss)
        engine.step()
        embed_by_momentum_encoder(engine, cache)
        state = copy.deepcopy(engine.module.state_dict())
        gradients = getattr(engine, "gradients", {})
        found.append(Taken(mean_of_shares(loss).detach(), gradients, state))
    return found


def on_rank(stage: StageConfig, of: str, normalise: bool, micro: int) -> list[Taken]:
    return steps_of(Engine(stage, of, normalise=normalise), micro)


def naively(stage: StageConfig, of: str, normalise: bool) -> list[Taken]:
    """Take the same steps by formulas over whole matrices; the queue and the average are lists."""
    module = Engine(stage, of, normalise=normalise).module
    trained = [one for one in module.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(parameter_groups(module, stage), lr=0.1)
    averages: list[Tensor] = []
    kept: dict[str, list[Tensor]] = {"images": [], "texts": [], "ids": []}
    found = []
    for step in range(STEPS):
        given = batch(step)
        images, texts = embeddings(module, given, normalise=normalise)
        loss = (
            costs(module, images, texts, given.image_ids, kept["texts"], kept["ids"])
            + costs(module, texts, images, given.image_ids, kept["images"], kept["ids"])
        ).mean() / 2
        optimizer.zero_grad()
        loss.backward()
        gradients = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
        optimizer.step()
        decay = min(MOMENTUM, step / (step + 9))
        new = [one.detach().clone() for one in trained]
        pairs = zip(averages or new, new, strict=True)
        averages = [decay * old + (1 - decay) * one for old, one in pairs]
        if step / STEPS >= 0.25:
            theirs = copy.deepcopy(module)
            copies = [one for one in theirs.parameters() if one.requires_grad]
            for one, average in zip(copies, averages, strict=True):
                one.data = average
            images, texts = embeddings(theirs, given, normalise=normalise)
            kept["ids"] = [*kept["ids"], *given.image_ids][-SIZE:]
            for side, rows in (("images", images), ("texts", texts)):
                if of in (side, "both"):
                    kept[side] = [*kept[side], *rows.detach()][-SIZE:]
        state = {f"queue.{name}": torch.stack(rows) for name, rows in kept.items() if rows}
        state |= {n: p.detach().clone() for n, p in module.named_parameters()}
        found.append(Taken(loss.detach(), gradients, state))
    return found


def embeddings(module: Clip, given: Batch, *, normalise: bool) -> tuple[Tensor, Tensor]:
    def side(rows: Tensor, head: nn.Module) -> Tensor:
        if normalise:
            rows = F.normalize(rows, dim=1)
            variance, mean = torch.var_mean(rows, 0, correction=0)
            rows = (rows - mean) / (variance + 1 / rows.shape[1]).sqrt()
        return F.normalize(rows @ head[-1].weight.T, dim=1)

    return (
        side(given.image_features, module.image.head),
        side(given.text_features, module.text.head),
    )


def costs(
    module: Clip, x: Tensor, y: Tensor, ids: Tensor, more: list[Tensor], more_ids: list[Tensor]
) -> Tensor:
    if more:
        y, others = torch.cat([y, torch.stack(more)]), torch.cat([ids, torch.stack(more_ids)])
    else:
        others = ids
    scores = module.loss.log_scale.exp() * x @ y.T
    own = torch.eye(len(x), len(y), dtype=torch.bool)
    excluded = (ids[:, None] == others) & ~own
    return scores.masked_fill(excluded, -torch.inf).logsumexp(1) - scores.diagonal()


@pytest.mark.parametrize(
    ("ranks", "of", "stage", "normalise", "micro"),
    [
        (1, "both", STAGE, True, BATCH),
        (2, "both", STAGE, False, 2),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                (1, "both", LOCKED, False, 3),
                (1, "texts", STAGE, False, BATCH),
                (2, "images", STAGE, True, BATCH // 2),
                (4, "both", STAGE, False, 1),
            ]
        ),
    ],
)
def test_it_is_a_loop_with_a_copy_of_the_encoders(
    ranks: int, of: str, stage: StageConfig, normalise: bool, micro: int
) -> None:
    given = stage, of, normalise
    expected = naively(*given)
    for found in on_ranks(ranks, on_rank, *given, micro) if ranks > 1 else [on_rank(*given, micro)]:
        for got, wanted in zip(found, expected, strict=True):
            close = {"rtol": 1e-9, "atol": 1e-11}
            torch.testing.assert_close(got.loss, wanted.loss, **close)
            torch.testing.assert_close(got.gradients, wanted.gradients, **close)
            filled = got.state["queue.ids"] != torch.iinfo(torch.int64).min
            order = (torch.arange(SIZE) + got.state["queue.position"]) % SIZE
            order = order[filled[order]]
            for name, values in wanted.state.items():
                mine = got.state[name]
                mine = mine[order] if name.startswith("queue.") else mine
                torch.testing.assert_close(mine, values, **close)


def test_from_its_state_it_continues_to_the_last_bit() -> None:
    whole, first, second = (Engine(STAGE, "both", normalise=True) for _ in range(3))
    expected = steps_of(whole, BATCH)
    steps_of(first, BATCH, last=4)
    second.module.load_state_dict(copy.deepcopy(first.module.state_dict()))
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    for got, wanted in zip(steps_of(second, BATCH, first=4), expected[4:], strict=True):
        assert torch.equal(got.loss, wanted.loss)
        assert all(got.state[name].equal(values) for name, values in wanted.state.items())


def test_running_statistics_and_weights_are_those_of_training() -> None:
    engine = Engine(STAGE, "both", normalise=True)
    found = steps_of(engine, BATCH)[-1].state
    key = "image.head.0.1."
    assert found[f"{key}num_batches_tracked"] == STEPS
    averages = [state["momentum_encoder"] for state in engine.optimizer.state.values()]
    weights = list(engine.optimizer.state)
    assert not any(one.equal(average) for one, average in zip(weights, averages, strict=True))
    assert decay_at(averages_of(STAGE, engine.module)["momentum_encoder"], STEPS) < MOMENTUM


def by_deepspeed(zero: dict[str, Any]) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Losses and state of the same steps on DeepSpeed's engine; the pass leaves weights alone."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # nothing to compile
    os.environ["LOCAL_RANK"] = str(rank())
    method = clip(STAGE, "both", normalise=True)
    training = TrainingConfig.model_validate({"zero": zero})
    engine = initialize_engine(method, STAGE, training, BATCH, world_size())
    engine.stage = STAGE

    def shares() -> list[Tensor]:
        parameters = list(method.parameters())
        return [getattr(one, "ds_tensor", one).detach().clone() for one in parameters]

    losses = []
    for step in range(STEPS):
        (taken,) = steps_of(engine, 4 // world_size(), step, step + 1, in_double=False)
        losses.append(taken.loss)
        before = shares()
        with averaged(engine, MOMENTUM_ENCODER):
            differ = any(not one.equal(other) for one, other in zip(shares(), before, strict=True))
            assert differ == (step > 0)
        assert all(one.equal(other) for one, other in zip(shares(), before, strict=True))
    with deepspeed.zero.GatheredParameters(list(method.parameters())):
        state = {name: value.clone() for name, value in method.state_dict().items()}
    close_engine(engine)
    return losses, state


@pytest.mark.slow
@pytest.mark.parametrize(
    "zero", [{"stage": 1}, {"stage": 2}, {"stage": 3}, {"stage": 3, "persistence_threshold": 0}]
)
def test_it_is_the_same_under_zero(zero: dict[str, Any]) -> None:
    ((expected, state),) = on_ranks(1, by_deepspeed, {"stage": 0})
    for losses, theirs in on_ranks(2, by_deepspeed, zero):
        torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(theirs, state, rtol=1e-3, atol=1e-4)
