"""Dot products that are the same to the last bit on every processor.

A matrix product rounds after each of its sums, in an order that its kernel chooses: by processor,
threads, shape and place. Here vectors are first cut into whole numbers so small that float64 holds
every sum of their products. Then no order rounds anything, and fast kernels can be used as they
are. Equal vectors therefore have equal products, and so have those of the same numbers in another
order.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

MANTISSA = 53  # bits of float64
CHUNK = {"cpu": 2**17, "cuda": 2**24}  # numbers of a side that are cut at a time


def exact_product(x: Tensor, y: Tensor) -> Tensor:
    """Return the dot products (a, b), float64, of vectors (a, dim) and (b, dim).

    Of the largest number of a vector with 512 numbers, 44 bits are kept. The result is a pure
    function of the two vectors, NaN where one of them is not finite.
    """
    x_high, x_low, x_unit = _cut(x)
    y_high, y_low, y_unit = _cut(y)
    whole = x_high @ y_high.T
    part = torch.cat([x_high, x_low], 1) @ torch.cat([y_low, y_high], 1).T
    return whole.add_(part, alpha=_step(x)).mul_(x_unit).mul_(y_unit.T)


class ExactLinear(nn.Linear):
    """A linear layer that is the same to the last bit on every processor, but in training.

    In evaluation and without gradients it keeps the first part of its factors alone (of 512
    numbers' largest 22 bits, where float32 has 24 of each), and returns float64.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, features) to (…, units)."""
        if self.training or torch.is_grad_enabled():
            return super().forward(x)
        x_high, _, x_unit = _cut(x.flatten(0, -2))
        w_high, _, w_unit = _cut(self.weight)
        out = (x_high @ w_high.T).mul_(x_unit).mul_(w_unit.T)
        if self.bias is not None:
            out += self.bias.double()
        return out.unflatten(0, x.shape[:-1])


def exact_dots(x: Tensor, y: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return those of `exact_product` in chosen places, (n,): `rows` (n,) of x, `columns` of y."""
    return _in_chunks(_exact, x, y, rows, columns)


def plain_dots(x: Tensor, y: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return those of `exact_dots` as float64 rounds them."""
    return _in_chunks(lambda x, y: x.double().mul_(y).sum(1), x, y, rows, columns)


def _in_chunks(
    dots: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, rows: Tensor, columns: Tensor
) -> Tensor:
    size = max(1, CHUNK.get(x.device.type, 2**24) // max(1, x.shape[1]))
    chunks = zip(rows.split(size), columns.split(size), strict=True)
    found = [dots(x[i], y[j]) for i, j in chunks]
    return torch.cat(found) if found else x.new_empty(0, dtype=torch.float64)


def _exact(x: Tensor, y: Tensor) -> Tensor:
    x_high, x_low, x_unit = _cut(x)
    y_high, y_low, y_unit = _cut(y)
    whole = (x_high * y_high).sum(1)
    part = x_high.mul_(y_low).addcmul_(x_low, y_high).sum(1)
    return whole.add_(part, alpha=_step(x)).mul_(x_unit[:, 0]).mul_(y_unit[:, 0])


def exact_error(dim: int) -> float:
    """Return the bound of |x·y − `exact_product`| / (|x| |y|) for vectors of `dim` numbers.

    A number loses at most half a unit of its last bit, 2^-2b of twice the vector's largest, and
    the product of two second parts is omitted: 5/4 of 4 · 2^-2b for each of `dim` products.
    """
    return 6 * dim * 2.0 ** (-2 * _bits(dim))


def _bits(dim: int) -> int:
    """Return how many bits b two factors may have each, if float64 is to hold `dim` products."""
    return (MANTISSA - max(0, dim - 1).bit_length()) // 2


def _step(x: Tensor) -> float:
    return 2.0 ** -_bits(x.shape[1])


def _cut(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return whole numbers (n, dim), those of the next bits, and the unit (n, 1) of the first.

    A vector is unit · (whole numbers + 2^-bits · the next), its last bits rounded.
    """
    bits = _bits(x.shape[1])
    x = x.double()
    largest = x.abs().amax(1, keepdim=True) if x.shape[1] else x.new_zeros(len(x), 1)
    # By the bits of its exponent: a library's power of two may be off by one bit.
    exponent = largest.view(torch.int64).bitwise_right_shift(52).sub_(1022).clamp_(min=-900)
    scaled = x * _power(bits - exponent)
    high = scaled.round()
    low = scaled.sub_(high).mul_(2.0**bits).round_()
    return high, low, _power(exponent - bits)


def _power(exponent: Tensor) -> Tensor:
    """Return 2 to these powers, float64."""
    return (exponent + 1023).bitwise_left_shift(52).view(torch.float64)
