"""Vectors of length 1, where those of no length stay."""

import torch
from torch import Tensor


def unit(vectors: Tensor) -> Tensor:
    """Return vectors (…, dim) divided by their lengths; of a zero vector 0, with gradient 0."""
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    zero = length == 0
    return (vectors / length.masked_fill(zero, 1)).masked_fill(zero, 0)
