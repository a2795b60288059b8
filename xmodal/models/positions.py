"""Learned positions of one size, resized to another."""

import math

import torch
import torch.nn.functional as F
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor

from xmodal.errors import UserError

KEPT = 20  # positions of a text that stay where more are needed


def fit_positions(name: str, found: Tensor, own: Tensor) -> tuple[Tensor, str]:
    """Return a tensor of positions resized to the shape of our own, and a line for the log.

    Raises `UserError`, which has the tensor's name, for one of another shape that has none.
    """
    last = name.rpartition(".")[2]
    if last == "pos_embed" and found.ndim == 3 and found.shape[2] == own.shape[2]:
        prefix = _prefix(found.shape[1], own.shape[1])
        if prefix is not None:
            resized = resize_image_positions(found, own.shape[1], prefix)
            return resized, _line("image", math.isqrt(found.shape[1]), math.isqrt(own.shape[1]), 2)
    if last == "positions" and found.shape[1] == own.shape[1]:
        line = _line("text", len(found), len(own), 1)
        if KEPT < len(found) < len(own):
            line += f"; the first {KEPT} stay"
        return resize_text_positions(found, len(own)), line
    raise UserError(
        f"method.pretrained: {name} is {tuple(found.shape)} there, and {tuple(own.shape)} by the "
        "recipe; give no other sizes than size and context"
    )


def resize_image_positions(positions: Tensor, length: int, prefix: int) -> Tensor:
    """Return positions (1, length, dim) of a square grid, by bicubic antialiased interpolation.

    The first `prefix` positions, of the class token and its like, stay as they are.
    """
    side = math.isqrt(length - prefix)
    resized: Tensor = resample_abs_pos_embed(
        positions, new_size=[side, side], num_prefix_tokens=prefix
    )
    return resized


def resize_text_positions(positions: Tensor, length: int) -> Tensor:
    """Return positions (length, dim), by linear interpolation.

    Where they become more, the first 20 stay as they are, since short captions have trained these
    alone, and the others are stretched (Long-CLIP: Zhang et al. 2024, arXiv 2403.15378, section
    3.1).
    """
    if len(positions) <= KEPT or length <= len(positions):
        return F.interpolate(positions.T[None].float(), length, mode="linear")[0].T
    kept, others = positions[:KEPT], positions[KEPT:]
    stretched = F.interpolate(
        others.T[None].float(), length - KEPT, mode="linear", align_corners=True
    )
    return torch.cat([kept.float(), stretched[0].T])


def _prefix(length: int, other: int) -> int | None:
    """Return how many positions precede a square grid in both of two lengths; None if in none."""
    both = (n for n in range(16) if _is_square(length - n) and _is_square(other - n))
    return next(both, None)


def _is_square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number


def _line(side: str, old: int, new: int, dimensions: int) -> str:
    shown = (" × ".join([str(n)] * dimensions) for n in (old, new))
    return f"Resized the positions of the {side} encoder from {' to '.join(shown)}"
