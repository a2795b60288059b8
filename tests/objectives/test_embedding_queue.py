"""Negatives from the last batches: what the queue holds, and what losses make of it."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.objectives.equivalence import Inputs, Result, assert_equal, differentiate, together
from tests.processes import on_ranks
from xmodal.distributed.collectives import rank, world_size
from xmodal.objectives import InfoNCE, Sigmoid, Triplet
from xmodal.objectives.embedding_queue import EmbeddingQueue
from xmodal.objectives.pairs import LimitedIds
from xmodal.objectives.pairwise.tiles import NO_ROWS

BATCH, DIM, STEPS, SIZE, SCALE, BIAS, MARGIN = 8, 5, 7, 20, 3.0, -1.0, 0.2
SIDES = {"both": ("images", "texts"), "texts": ("texts",), "images": ("images",)}


def objective(kind: str) -> nn.Module:
    made = {
        "info_nce": lambda: InfoNCE(scale=SCALE, tile=3),
        "sigmoid": lambda: Sigmoid(scale=SCALE, bias=BIAS, tile=3),
        "triplet": lambda: Triplet(negatives="sum", margin=MARGIN, warmup=0, tile=3),
    }[kind]().double()
    for name, parameter in made.named_parameters():
        if name == "log_scale":
            parameter.data.fill_(math.log(SCALE))
    return made


class WithQueue(nn.Module):
    """An objective with a queue, as a method calls them."""

    def __init__(self, kind: str, of: str, size: int = SIZE) -> None:
        super().__init__()
        self.loss, self.queue = objective(kind), EmbeddingQueue(DIM, size=size, of=of)
        self.queue.double().make_room()

    def forward(self, x: Tensor, y: Tensor, ids: Tensor) -> Tensor:
        share = self.loss(x, y, ids, self.queue.negatives())
        self.queue.push(x, y, ids)
        return share


class Naive(nn.Module):
    """The formula over the batch, and over the newest pairs before it, which stand in lists."""

    def __init__(self, kind: str, of: str) -> None:
        super().__init__()
        self.kind, self.sides, self.loss = kind, SIDES[of], objective(kind)
        self.kept: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, x: Tensor, y: Tensor, ids: Tensor) -> Tensor:
        images, texts, others = (
            torch.stack(one) if one else torch.empty(0, *like.shape[1:], dtype=like.dtype)
            for one, like in zip(zip(*self.kept), (x, y, ids), strict=True)  # noqa: B905
        ) if self.kept else (x[:0].detach(), y[:0].detach(), ids[:0])  # fmt: skip
        no_texts, no_images = ("texts" not in self.sides), ("images" not in self.sides)
        texts, images = texts[: 0 if no_texts else None], images[: 0 if no_images else None]
        rows = self.costs(x, y, texts, ids, others[: len(texts)])
        columns = self.costs(y, x, images, ids, others[: len(images)])
        self.kept = [*self.kept, *zip(x.detach(), y.detach(), ids, strict=True)][-SIZE:]
        if self.kind == "sigmoid":  # the batch's pairs are judged once
            columns = self.costs(y, x, images, ids, others[: len(images)], only_extra=True)
            return (rows + columns).mean()
        return (rows + columns).mean() / (2 if self.kind == "info_nce" else 1)

    def costs(self, x, y, more, ids, more_ids, *, only_extra=False) -> Tensor:
        scores, own = x @ torch.cat([y, more]).T, (x * y).sum(1)
        negative = ids[:, None] != torch.cat([ids, more_ids])
        if only_extra:
            negative[:, : len(y)] = False
        if self.kind == "triplet":
            return (F.relu(MARGIN + scores - own[:, None]) * negative).sum(1)
        scores, own = self.loss.log_scale.exp() * scores, self.loss.log_scale.exp() * own
        if self.kind == "info_nce":
            whole = torch.cat([own[:, None], scores.masked_fill(~negative, -torch.inf)], 1)
            return whole.logsumexp(1) - own
        costs = (F.softplus(scores + self.loss.bias) * negative).sum(1)
        return costs + (0 if only_extra else 1) * F.softplus(-own - self.loss.bias)


def batch(step: int) -> Inputs:
    """The pairs of a step: ids come again after two steps, in the queue."""
    generator = torch.Generator().manual_seed(step)
    x, y = F.normalize(torch.randn(2, BATCH, DIM, generator=generator, dtype=torch.float64), dim=2)
    return {"x": x, "y": y, "ids": (torch.arange(BATCH) + step * BATCH) % 19 // 2}


def steps_of(module: nn.Module, rows: Tensor, first: int = 0, last: int = STEPS) -> list[Result]:
    found = []
    for step in range(first, last):
        inputs = {name: values[rows] for name, values in batch(step).items()}
        found.append(differentiate(lambda one, given: one(*given.values()), module, inputs))
    return found


def on_rank(kind: str, of: str):
    module = WithQueue(kind, of)
    rows = torch.arange(rank(), BATCH, world_size())  # as the loader deals them
    return steps_of(module, rows), module.queue.state_dict()


@pytest.mark.parametrize("ranks", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("kind", "of"),
    [
        ("info_nce", "both"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [("info_nce", "images"), ("sigmoid", "both"), ("triplet", "texts")]
        ),
    ],
)
def test_over_many_steps_it_is_the_formula_with_the_last_pairs(
    kind: str, of: str, ranks: int
) -> None:
    found = on_ranks(ranks, on_rank, kind, of) if ranks > 1 else [on_rank(kind, of)]
    naive = Naive(kind, of)
    expected = steps_of(naive, torch.arange(BATCH))
    rows = [torch.arange(one, BATCH, ranks) for one in range(ranks)]
    for step in range(STEPS):
        got = together([results[step] for results, _ in found], rows, batch(step))
        assert_equal(got, expected[step], where=f"{kind} {of}, step {step} on {ranks} ranks")
    for _, state in found:
        check_holds(state, naive)


def check_holds(state: dict[str, Tensor], naive: Naive) -> None:
    """The queue has the newest pairs, to the last bit, in the plan's order from its position on."""
    order = (torch.arange(SIZE) + state["position"]) % SIZE
    images, texts, ids = (torch.stack(one) for one in zip(*naive.kept, strict=True))
    assert torch.equal(state["ids"][order], ids)
    for side, values in (("images", images), ("texts", texts)):
        if side in naive.sides:
            assert torch.equal(state[side][order], values)
        else:
            assert not state[side].numel()


def test_from_its_state_it_continues_to_the_last_bit() -> None:
    rows = torch.arange(BATCH)
    whole, first, second = (WithQueue("info_nce", "both") for _ in range(3))
    expected = steps_of(whole, rows)
    steps_of(first, rows, last=4)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for got, wanted in zip(steps_of(second, rows, first=4), expected[4:], strict=True):
        assert torch.equal(got.value, wanted.value)
        for name, gradient in wanted.gradients.items():
            assert torch.equal(got.gradients[name], gradient)


def test_before_its_start_nothing_enters_and_it_is_empty_for_losses() -> None:
    queue = EmbeddingQueue(DIM, size=SIZE, start=0.5)
    queue.double().make_room()
    x, y, ids = batch(0).values()
    queue.progress = 0.4
    queue.push(x, y, ids)
    assert (queue.ids == NO_ROWS).all()
    assert torch.equal(
        objective("info_nce")(x, y, ids, queue.negatives()), objective("info_nce")(x, y, ids)
    )
    queue.progress = 0.5
    queue.push(x, y, ids)
    assert queue.ids[:BATCH].equal(ids)


def test_of_a_batch_larger_than_the_queue_the_last_pairs_are_kept() -> None:
    queue = EmbeddingQueue(DIM, size=3)
    queue.double().make_room()
    x, y, ids = batch(0).values()
    queue.push(x, y, ids)
    assert torch.equal(queue.ids, ids[-3:])
    assert torch.equal(queue.images, x[-3:])


def test_relevant_pairs_in_the_queue_are_no_negatives() -> None:
    queue = EmbeddingQueue(DIM, size=BATCH)
    queue.double().make_room()
    x, y, ids = batch(0).values()
    queue.push(x, y, ids * 0)
    loss = objective("info_nce")
    assert torch.equal(loss(x, y, ids * 0, queue.negatives()), loss(x, y, ids * 0))
    assert loss(x, y, ids + 1, queue.negatives()) > loss(x, y, ids + 1)


def test_pairs_in_the_queue_whose_texts_are_alike_are_skipped_with_a_limit() -> None:
    x, y, _ = batch(0).values()
    ids, loss = torch.arange(BATCH), objective("info_nce")
    values = []
    for other, given in ((0, ids), (100, LimitedIds(ids, 0.999))):
        queue = EmbeddingQueue(DIM, size=BATCH)
        queue.double().make_room()
        queue.push(-x, y, ids + other)
        values.append(loss(x, y, given, queue.negatives()))
    assert torch.equal(*values)
    assert values[0] < loss(x, y, ids, queue.negatives())


def test_a_model_that_is_only_used_leaves_it_unread() -> None:
    trained, used = EmbeddingQueue(DIM, size=3), EmbeddingQueue(DIM, size=3)
    trained.make_room()
    used.load_state_dict(trained.state_dict())
    assert not any(buffer.numel() for buffer in used.buffers())


def test_what_is_kept_for_the_backward_pass_is_linear_in_the_queue() -> None:
    def kept(size: int) -> int:
        found: list[int] = []
        module = WithQueue("info_nce", "both", size=size)
        x, y, ids = batch(0).values()
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda one: found.append(one.numel()) or one, lambda one: one
        )
        with hooks:
            module(x.requires_grad_(), y.requires_grad_(), ids)
        return sum(found)

    assert kept(512) - kept(256) <= 256 * 2 * (DIM + 4)
