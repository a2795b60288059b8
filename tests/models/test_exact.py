"""Dot products that no order of summation changes, against fractions."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from xmodal.models.exact import (
    ExactLinear,
    exact_dots,
    exact_error,
    exact_product,
    plain_dots,
)

DIMS = st.sampled_from([1, 2, 3, 7, 64, 513, 3000])


def vectors(count: int, dim: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Vectors of numbers of very different size."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    sizes = torch.randint(-8, 9, (count, dim), generator=generator).double()
    return (values * sizes.exp2()).to(dtype)


def dot(x: Tensor, y: Tensor) -> Fraction:
    pairs = zip(x.tolist(), y.tolist(), strict=True)
    return sum((Fraction(a) * Fraction(b) for a, b in pairs), Fraction())


@given(dim=DIMS, seed=st.integers(0, 2**32 - 1))
def test_no_order_block_or_place_changes_a_bit(dim: int, seed: int) -> None:
    x, y = vectors(5, dim, seed), vectors(9, dim, seed + 1)
    x[3], y[7] = x[0], y[2]
    found = exact_product(x, y)
    order = torch.randperm(dim, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(exact_product(x[:, order], y[:, order]), found)
    assert torch.equal(exact_product(y, x).T, found)
    assert torch.equal(exact_product(x[2:3], y[4:6]), found[2:3, 4:6])
    assert torch.equal(found[3], found[0])
    assert torch.equal(found[:, 7], found[:, 2])
    i, j = torch.arange(45) // 9, torch.arange(45) % 9
    assert torch.equal(exact_dots(x, y, i, j), found.flatten())
    # Of the largest number of a vector, 44 bits are kept.
    atol = float(dim * 2.0**-43 * x.abs().max() * y.abs().max())
    torch.testing.assert_close(plain_dots(x, y, i, j), found.flatten(), rtol=1e-9, atol=atol)


@given(
    dim=DIMS,
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    is_even=st.booleans(),  # numbers of one size, which all lose as much
)
def test_what_it_leaves_out_is_bounded(
    dim: int, seed: int, dtype: torch.dtype, is_even: bool
) -> None:
    x, y = vectors(2, dim, seed, dtype)
    if is_even:
        x, y = x.sign() * (1 + x.abs().frac()), y.sign() * (1 + y.abs().frac())
    found = Fraction(exact_product(x[None], y[None]).item())
    bound = exact_error(dim) * float(x.double().norm() * y.double().norm())
    assert abs(found - dot(x, y)) <= bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("dim", [1, 5, 512, 4096])
def test_it_is_the_sum_of_the_products(dim: int, dtype: torch.dtype) -> None:
    x, y = vectors(3, dim, 0, dtype), vectors(4, dim, 1, dtype)
    found = exact_product(x, y)
    bound = dim * 2.0 ** -(2 * ((53 - (dim - 1).bit_length()) // 2) - 1)
    for i in range(3):
        for j in range(4):
            largest = float(x[i].abs().max()) * float(y[j].abs().max())
            assert abs(Fraction(found[i, j].item()) - dot(x[i], y[j])) <= bound * largest


def test_one_unit_of_float32_decides() -> None:
    x = torch.zeros(1, 512)
    x[0, 0] = 1
    y = x.repeat(3, 1)
    y[1, 0], y[2, 0] = 1 - 2**-24, 1 + 2**-23
    assert exact_product(x, y)[0].tolist() == [1, 1 - 2**-24, 1 + 2**-23]


def test_whole_numbers_are_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randint(-1000, 1001, (2, 40, 700), generator=generator)
    assert torch.equal(exact_product(x.float(), y.float()), (x @ y.T).double())


def test_the_largest_and_smallest_numbers() -> None:
    x = torch.tensor([[3e38, 1.0], [1e-45, 0.0], [0.0, -0.0], [torch.inf, 0.0], [torch.nan, 1.0]])
    found = exact_product(x, torch.tensor([[3e38, 1.0]]))[:, 0]
    assert found[0].item() == pytest.approx(9e76)
    assert found[1].item() == pytest.approx(1.4e-45 * 3e38, rel=1e-2)
    assert found[2] == 0
    assert found[3:].isnan().all()


def test_a_linear_layer_is_exact_where_it_is_evaluated() -> None:
    torch.manual_seed(0)
    layer, x = ExactLinear(300, 40), torch.randn(2, 150, 300)
    plain = torch.nn.functional.linear(x, layer.weight, layer.bias)
    assert torch.equal(layer(x), plain)
    assert torch.equal(layer.eval()(x), plain)  # with gradients, as in training
    with torch.no_grad():
        found = layer(x)
        assert found.dtype == torch.float64
        torch.testing.assert_close(found.float(), plain, rtol=1e-5, atol=1e-6)
        order = torch.randperm(300)
        layer.weight.copy_(layer.weight[:, order])
        assert torch.equal(layer(x[..., order]), found)
        assert torch.equal(layer(x[1, 100:101][..., order]), found[1, 100:101])
