"""The gradient cache against plain PyTorch: one graph of the whole batch, one backward pass."""

import os
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakSet

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.processes import on_ranks
from xmodal.data.batch import Batch, join
from xmodal.distributed.collectives import gather, rank, world_size
from xmodal.training.config import StageConfig, TrainingConfig
from xmodal.training.engine import initialize_engine
from xmodal.training.gradient_cache import GradientCache
from xmodal.training.parts import parameter_groups, select_trained

RANKS, SHARE, STEPS = 2, 12, 4
DIM = 320  # so wide that ZeRO 3 shares out a (DIM, DIM) matrix, rather than keep it everywhere


@dataclass
class Embeddings:
    images: Tensor
    texts: Tensor
    ids: Tensor
    words: Tensor | None = None


class Critic(nn.Module):
    """Scores by a learned metric and temperature, other captions of an image left out."""

    def __init__(self) -> None:
        super().__init__()
        self.metric = nn.Linear(DIM, DIM)
        self.log_scale = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor, texts: Tensor, ids: Tensor) -> Tensor:
        everyone, all_ids = gather(texts), gather(ids)
        own = torch.arange(len(images)) + rank() * len(images)
        excluded = (ids[:, None] == all_ids) & (own[:, None] != torch.arange(len(all_ids)))
        scores = self.log_scale.exp() * self.metric(images) @ everyone.T
        return F.cross_entropy(scores.masked_fill(excluded, -torch.inf), own)


@dataclass(eq=False)
class Kept:
    tensor: Tensor


class Held:
    """Counts the rows of activations that encoders keep for their backward passes."""

    def __init__(self) -> None:
        self.alive: WeakSet[Kept] = WeakSet()
        self.most = 0

    def kept(self, tensor: Tensor) -> Kept:
        kept = Kept(tensor)
        if len(tensor) <= SHARE:  # or it is a weight
            self.alive.add(kept)
        self.most = max(self.most, sum(len(one.tensor) for one in self.alive))
        return kept


class Method(nn.Module):
    """Two towers on features, with dropout and batch normalisation where they are asked for."""

    momentum = None

    def __init__(self, dropout: float = 0.0, *, norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image = nn.Sequential(nn.Linear(6, DIM), nn.GELU(), nn.Dropout(dropout))
        self.image.append(nn.BatchNorm1d(DIM) if norm else nn.Identity())
        self.image.append(nn.Linear(DIM, DIM))
        self.text = nn.Sequential(nn.Linear(5, DIM), nn.Dropout(dropout))
        self.critic = Critic()
        self.held = Held()

    def encode(self, batch: Batch) -> Embeddings:
        with torch.autograd.graph.saved_tensors_hooks(self.held.kept, lambda kept: kept.tensor):
            images = F.normalize(self.image(batch.image_features), dim=-1)
            texts = F.normalize(self.text(batch.text_features), dim=-1)
        return Embeddings(images, texts, batch.image_ids)

    def objective(self, embeddings: Embeddings) -> dict[str, Tensor]:
        shrinking = 0.01 * self.critic.metric(embeddings.texts).square().sum(1).mean()
        critic = self.critic(embeddings.images, embeddings.texts, embeddings.ids)
        return {"critic": critic, "shrinking": shrinking}

    def forward(self, compute: Any) -> Any:
        return compute(self)


@dataclass
class Case:
    """What a training is made of."""

    zero: Any = 0  # a stage, or options of it
    micro_batch: int = 3
    dropout: float = 0.0
    norm: bool = False
    train: tuple[str, ...] = ("*",)
    ranks: int = RANKS

    @property
    def stage(self) -> StageConfig:
        # An eps far above the gradients makes AdamW's step linear in them: what differs by rounding
        # stays that small, and a gradient that is twice too large does not go unnoticed.
        optimizer = {"lr": 2.0, "eps": 1.0, "weight_decay": 0.01}
        return StageConfig.model_validate({"optimizer": optimizer, "clip_norm": 0.3})

    @property
    def training(self) -> TrainingConfig:
        return TrainingConfig.model_validate({"zero": self.zero})

    def method(self) -> Method:
        method = Method(self.dropout, norm=self.norm)
        select_trained(method, list(self.train))
        return method


@dataclass
class Trained:
    losses: list[float]  # a step
    norms: list[float]  # of the gradient, a step
    state: dict[str, Tensor]  # weights and running statistics
    held: int = 0  # rows of activations that were kept at once


def share(step: int, of_rank: int) -> Batch:
    """A rank's part of a batch; some images come twice, on one rank and on both."""
    generator = torch.Generator().manual_seed(1000 * step + of_rank)
    ids = torch.randint(0, 2 * SHARE, (SHARE,), generator=generator)
    rows = partial(torch.randn, SHARE, generator=generator)
    return Batch(image_features=rows(6), text_features=rows(5), image_ids=ids)


def cached(case: Case) -> Trained:
    """Train by DeepSpeed and the gradient cache: what a rank does."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # nothing to compile
    os.environ["LOCAL_RANK"] = str(rank())
    engine = initialize_engine(
        case.method(),
        case.stage,
        case.training,
        SHARE * world_size(),
        world_size(),
    )
    assert not engine.tput_timer.config.enabled  # it waits for the device
    losses, norms = [], []
    for step in range(STEPS):
        cache = GradientCache(engine, share(step, rank()).cut(case.micro_batch), (7, step))
        loss = torch.stack(list(cache.forward().values())).sum()
        cache.backward(loss)
        engine.step()
        losses.append(float(loss.detach()))
        norms.append(float(engine.get_global_grad_norm()))
    with deepspeed.zero.GatheredParameters(list(engine.module.parameters())):
        state = {name: value.clone() for name, value in engine.module.state_dict().items()}
    return Trained(losses, norms, state, engine.module.held.most)


def plain(case: Case) -> Trained:
    """Train on one process with all graphs kept: the same micro-batches in the same states."""
    method = case.method()
    rate, eps = case.stage.optimizer.lr, case.stage.optimizer.eps
    groups = parameter_groups(method, case.stage)
    adamw = torch.optim.AdamW(groups, rate, case.stage.optimizer.betas, eps)
    losses, norms = [], []
    for step in range(STEPS):
        embeddings = []
        for of_rank in range(case.ranks):
            for number, part in enumerate(share(step, of_rank).cut(case.micro_batch)):
                torch.manual_seed(hash((7, step, number * case.ranks + of_rank)))
                embeddings.append(method.encode(part))
        loss = torch.stack(list(method.objective(join(embeddings)).values())).sum()
        adamw.zero_grad()
        loss.backward()
        trained = [p for p in method.parameters() if p.requires_grad]
        norms.append(float(nn.utils.clip_grad_norm_(trained, case.stage.clip_norm)))
        adamw.step()
        losses.append(float(loss.detach()))
    return Trained(losses, norms, method.state_dict())


def assert_equal(case: Case) -> None:
    """Training moves every weight to the same place, to a part in 10⁵ of the way it goes."""
    start, expected = case.method().state_dict(), plain(case)
    ranks = on_ranks(case.ranks, cached, case)
    losses = [sum(values) / case.ranks for values in zip(*(r.losses for r in ranks), strict=True)]
    assert losses == pytest.approx(expected.losses, rel=1e-6)
    trained = {name for name, p in case.method().named_parameters() if p.requires_grad}
    for of_rank in ranks:
        assert of_rank.norms == pytest.approx(expected.norms, rel=1e-6)
        for name, value in expected.state.items():
            way = (value - start[name]).abs().max()
            assert (way > 1e-3) == (name in trained), f"{name} moves by {way}"
            difference = (of_rank.state[name] - value).abs().max()
            assert difference <= 1e-5 * way, f"{name} differs by {difference} after {way}"


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_training_is_that_of_one_graph(zero: int, dropout: float) -> None:
    assert_equal(Case(zero, dropout=dropout))


OPTIONS: dict[str, dict[str, Any]] = {
    "overlap 0": {"stage": 0, "overlap": True, "bucket_size": 50_000},
    "overlap 1": {"stage": 1, "overlap": True, "bucket_size": 50_000},
    "overlap 2": {"stage": 2, "overlap": True, "bucket_size": 50_000},
    "offload 1": {"stage": 1, "offload_optimizer": "cpu"},
    "offload 2": {"stage": 2, "offload_optimizer": "cpu"},
    "offload 3": {"stage": 3, "offload_optimizer": "cpu", "offload_parameters": "cpu"},
    "secondary": {"stage": 3, "secondary_partition": 2},
}


SLOW = {"overlap 2", "offload 1", "offload 2", "secondary"}


@pytest.mark.parametrize(
    "option",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in OPTIONS],
)
def test_options_of_zero_change_no_step(option: str) -> None:
    assert_equal(Case(OPTIONS[option], dropout=0.5))


@pytest.mark.parametrize("zero", [0, 3])
def test_a_single_micro_batch_is_a_plain_step(zero: int) -> None:
    assert_equal(Case(zero, micro_batch=SHARE, dropout=0.5))


@pytest.mark.parametrize("zero", [0, 3])
@pytest.mark.parametrize("train", ["image", "text", "critic", "critic.metric.bias"])
def test_locked_parts_stay_and_the_others_learn(train: str, zero: int) -> None:
    assert_equal(Case(zero, train=(train,)))


def test_without_dropout_the_size_of_micro_batches_changes_nothing() -> None:
    whole, *others = (plain(Case(micro_batch=size)).state for size in (SHARE, 4, 1))
    for other in others:
        for name, value in whole.items():
            torch.testing.assert_close(other[name], value, rtol=1e-5, atol=1e-6)


def test_running_statistics_see_every_sample_once() -> None:
    case = Case(norm=True, dropout=0.5, ranks=1)
    expected = plain(case).state
    [trained] = on_ranks(1, cached, case)
    assert trained.state["image.3.num_batches_tracked"] == STEPS * SHARE / case.micro_batch
    for name, value in expected.items():
        torch.testing.assert_close(trained.state[name], value, rtol=1e-4, atol=1e-6)


def test_activations_of_one_micro_batch_are_held_at_a_time() -> None:
    few, more, all_at_once = (
        on_ranks(1, cached, Case(micro_batch=size, ranks=1))[0].held for size in (2, 4, SHARE)
    )
    assert (more, all_at_once) == (2 * few, SHARE // 2 * few)
    assert few > 0
