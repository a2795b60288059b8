"""Functions that stay exact where the plain formula rounds, overflows or divides by zero."""

import torch
from torch import Tensor


def log1p_exp(values: Tensor) -> Tensor:
    """Return log(1 + e^v) of each value, exact for large and small ones."""
    return torch.logaddexp(values, values.new_zeros(()))


def log_add_exp(values: Tensor, added: Tensor) -> Tensor:
    """Return log(eᵃ + eᵇ), with a gradient of 0, not NaN, where both are −∞: the least number."""
    least = torch.finfo(values.dtype).min
    return torch.logaddexp(values.clamp(min=least), added.to(values.dtype).clamp(min=least))


def unit(vectors: Tensor) -> Tensor:
    """Return vectors (…, dim) divided by their lengths; of a zero vector 0, with gradient 0."""
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    zero = length == 0
    return (vectors / length.masked_fill(zero, 1)).masked_fill(zero, 0)
