import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.processes import on_ranks
from xmodal.data.batch import Fault
from xmodal.distributed import collectives
from xmodal.distributed.collectives import gather, gather_objects, rank

WORLDS = [1, 2, 4]


def rows_of(rank: int, rows: int = 3) -> Tensor:
    """Rows that no other rank has, (rows, 2, 5)."""
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(rows, 2, 5, generator=generator, dtype=torch.float64)


def share_of(rank: int, values: Tensor) -> Tensor:
    """A function of all ranks' values that every rank has another of."""
    return ((rank + 1) * values.square() + values.cumsum(0)).sum()


def gather_and_differentiate() -> tuple[Tensor, Tensor]:
    local = rows_of(rank()).requires_grad_()
    gathered = gather(local)
    share_of(rank(), gathered).backward()
    return gathered.detach(), local.grad


@pytest.mark.parametrize("ranks", WORLDS)
def test_gather_gives_all_rows_and_its_gradient_adds_up_what_all_ranks_ask(ranks: int) -> None:
    everything = torch.cat([rows_of(one) for one in range(ranks)]).requires_grad_()
    sum(share_of(one, everything) for one in range(ranks)).backward()
    expected = everything.grad.split(3)
    for one, (gathered, gradient) in enumerate(on_ranks(ranks, gather_and_differentiate)):
        assert torch.equal(gathered, everything.detach())
        torch.testing.assert_close(gradient, expected[one], rtol=1e-13, atol=1e-13)


def gather_ragged_and_differentiate(rows: list[int]) -> tuple[Tensor, Tensor]:
    local = rows_of(rank(), rows[rank()]).requires_grad_()
    gathered = gather(local)
    share_of(rank(), gathered).backward()
    return gathered.detach(), local.grad


@pytest.mark.parametrize("rows", [[2, 5], [0, 3], [1, 4, 4, 2]])
def test_a_gradient_reaches_the_rows_of_ranks_that_have_other_numbers(rows: list[int]) -> None:
    parts = [rows_of(one, count).requires_grad_() for one, count in enumerate(rows)]
    everything = torch.cat(parts)
    sum(share_of(one, everything) for one in range(len(rows))).backward()
    results = on_ranks(len(rows), gather_ragged_and_differentiate, rows)
    for part, (gathered, gradient) in zip(parts, results, strict=True):
        assert torch.equal(gathered, everything.detach())
        torch.testing.assert_close(gradient, part.grad, rtol=1e-13, atol=1e-13)


def gather_several() -> dict[str, Any]:
    mine = rank()
    return {
        "ragged": gather(rows_of(mine, rows=3 * mine)),
        "one has all": gather(rows_of(mine, rows=4 if mine == 0 else 0)),
        "none": gather(rows_of(mine, rows=0)),
        "counts": collectives.row_counts(rows_of(mine, rows=3 * mine)),
        "ids": gather(torch.tensor([2**62 + mine])),
        "strided": gather(rows_of(mine).transpose(0, 2)),
    }


@pytest.mark.parametrize("ranks", WORLDS)
def test_ranks_may_have_other_numbers_of_rows_types_and_strides(ranks: int) -> None:
    everyone = range(ranks)
    for got in on_ranks(ranks, gather_several):
        assert torch.equal(got["ragged"], torch.cat([rows_of(r, rows=3 * r) for r in everyone]))
        assert torch.equal(got["one has all"], rows_of(0, rows=4))
        assert got["none"].shape == (0, 2, 5)
        assert got["counts"] == [3 * r for r in everyone]
        assert got["ids"].tolist() == [2**62 + r for r in everyone]
        assert torch.equal(
            got["strided"], torch.cat([rows_of(r).transpose(0, 2) for r in everyone])
        )


OBJECTS = ["日本 \udc80\n", 2**80, -0.1, float("inf"), None, {"a": [1, {"b": True}]}, ""]


def exchange() -> tuple[list[Any], list[Fault], list[Any]]:
    """Gather objects of several kinds, and none, where a pickle could not be read."""
    pickle.loads = pickle.Unpickler = None  # type: ignore[assignment, misc]
    mine = OBJECTS[: 4 + 3 * rank()]
    fault = Fault("s3://a/0.tar", f"key {rank()}\udc80", "cause", by_choice=rank() == 1)
    return gather_objects(mine), gather_objects([fault], Fault), gather_objects([])


def test_objects_come_as_they_are_and_are_no_pickles() -> None:
    for objects, faults, none in on_ranks(2, exchange):
        assert objects == OBJECTS[:4] + OBJECTS
        assert [fault.key for fault in faults] == ["key 0\udc80", "key 1\udc80"]
        assert [fault.by_choice for fault in faults] == [False, True]
        assert none == []


def sum_without_gradient() -> tuple[Tensor, Tensor, bool]:
    local = rows_of(rank()).requires_grad_()
    total = collectives.sum_over_ranks(local)
    return local.detach(), total, total.requires_grad


@pytest.mark.parametrize("ranks", WORLDS)
def test_sum_over_ranks_leaves_its_argument_alone(ranks: int) -> None:
    expected = torch.stack([rows_of(one) for one in range(ranks)]).sum(0)
    for one, (local, total, has_gradient) in enumerate(on_ranks(ranks, sum_without_gradient)):
        assert torch.equal(local, rows_of(one))
        torch.testing.assert_close(total, expected, rtol=1e-13, atol=1e-13)
        assert not has_gradient


def test_without_a_process_group_there_is_one_rank() -> None:
    values: Any = rows_of(0)
    assert (collectives.rank(), collectives.world_size()) == (0, 1)
    for function in (gather, collectives.sum_over_ranks):
        assert torch.equal(function(values), values)
    assert collectives.row_counts(values) == [3]
