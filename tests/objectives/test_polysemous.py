import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.objectives.embedding_cases import naive_discrepancy
from tests.objectives.equivalence import assert_equal, differentiate
from xmodal.objectives.polysemous import diversity, maximum_mean_discrepancy


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("per_item", [2, 3, 5])
def test_embeddings_that_are_the_same_cost_most_and_at_right_angles_nothing(per_item: int) -> None:
    same = drawn(4, 1, 6).repeat(1, per_item, 1)
    expected = math.sqrt(per_item * (per_item - 1)) / per_item**2
    torch.testing.assert_close(diversity(same).item(), expected)
    assert diversity(torch.eye(6)[None, :per_item].repeat(4, 1, 1)) == 0


def test_gradients_are_those_of_differences() -> None:
    assert torch.autograd.gradcheck(diversity, drawn(3, 3, 4).requires_grad_())
    sides = drawn(4, 3).requires_grad_(), drawn(5, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: maximum_mean_discrepancy(x, y, tile=2), sides)


def test_the_same_rows_have_no_discrepancy() -> None:
    x = drawn(30, 4).requires_grad_()
    value = maximum_mean_discrepancy(x, x.detach()[torch.randperm(30)])
    value.backward()
    assert abs(value) < 1e-12
    assert x.grad.abs().max() < 1e-12


def test_rows_far_apart_have_that_of_their_own_kernels() -> None:
    x = torch.zeros(10, 3).double()
    value = maximum_mean_discrepancy(x, x + 1000)
    torch.testing.assert_close(value.item(), 2.0)


def test_copies_are_at_distance_zero_in_single_precision() -> None:
    x = (100 * drawn(1, 512)).float().repeat(40, 1).requires_grad_()
    value = maximum_mean_discrepancy(x, x.detach())
    value.backward()
    assert value.abs() < 1e-6
    assert x.grad.abs().max() < 1e-6


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 9),
    others=st.integers(1, 9),
    per_item=st.integers(0, 3),
    tile=st.integers(1, 12),
)
def test_any_shape_and_tile(rows: int, others: int, per_item: int, tile: int) -> None:
    shape = (per_item, 7) if per_item else (7,)
    inputs = {"x": drawn(rows, *shape), "y": drawn(others, *shape, seed=1)}
    got = differentiate(
        lambda _, given: maximum_mean_discrepancy(given["x"], given["y"], tile=tile),
        nn.Module(),
        inputs,
    )
    expected = differentiate(naive_discrepancy, nn.Module(), inputs)
    assert_equal(got, expected, where=f"{rows}, {others}, {per_item}, {tile}")
