"""Numbers of classes in the order in which they come."""

import pytest
import torch
from torch import Tensor

from tests.processes import on_ranks
from xmodal.distributed.collectives import rank, world_size
from xmodal.objectives.class_numbers import ClassNumbers

STEPS = torch.tensor([[7, 7, -3, 9], [9, 2**40, 7, -3], [5, 5, 5, -8]])


def numbers_of(classes: int) -> tuple[list[Tensor], ClassNumbers]:
    """The numbers of this rank's ids of each step, and what gives them."""
    numbers = ClassNumbers(classes)
    numbers.make_room()
    return [numbers(ids[rank() :: world_size()]) for ids in STEPS], numbers


def test_ids_are_numbered_as_they_come_and_keep_their_numbers() -> None:
    found, numbers = numbers_of(6)
    assert torch.stack(found).tolist() == [[0, 0, 1, 2], [2, 3, 0, 1], [4, 4, 4, 5]]
    assert numbers.monitors["classes"].item() == 6
    assert numbers.failure_reason({"classes": 6.0}) is None
    with torch.no_grad():
        assert numbers(torch.tensor([5, 7])).tolist() == [4, 0]


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_they_are_the_same_on_any_number_of_ranks(ranks: int) -> None:
    expected, whole = numbers_of(6)
    for one, (found, numbers) in enumerate(on_ranks(ranks, numbers_of, 6)):
        assert numbers.ids.equal(whole.ids)
        assert [n.tolist() for n in found] == [n[one::ranks].tolist() for n in expected]


def test_more_classes_than_there_are_numbers_stop_the_run() -> None:
    _, numbers = numbers_of(4)
    assert numbers.ids.tolist() == [7, -3, 9, 2**40]
    assert numbers.excess.item() == 2
    values = {"classes": float(numbers.monitors["classes"])}
    reason = numbers.failure_reason(values)
    assert reason is not None
    assert "more than the 4 classes of the objective" in reason
    numbers(STEPS[0])  # no new one among these: the reason stays
    assert numbers.failure_reason({"classes": float(numbers.monitors["classes"])})


def test_without_gradients_none_is_given_and_without_room_none_is_looked_up() -> None:
    numbers = ClassNumbers(3)
    with pytest.raises(ValueError, match="call make_room"):
        numbers(STEPS[0])
    numbers.make_room()
    with torch.no_grad():
        numbers(STEPS[0])
    assert numbers.ids.unique().numel() == 1


def test_from_its_state_it_continues_and_a_model_that_is_used_leaves_it_unread() -> None:
    _, numbers = numbers_of(6)
    second, used = ClassNumbers(6), ClassNumbers(6)
    second.make_room()
    for one in (second, used):
        one.load_state_dict(numbers.state_dict())
    assert second(STEPS[1]).equal(numbers(STEPS[1]))
    assert not used.ids.numel()
