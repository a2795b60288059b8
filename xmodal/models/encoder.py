"""Base class of encoders: features of an item as a whole, and of each of its parts."""

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from xmodal.models.depth import by_blocks


class Local(NamedTuple):
    """Features of every position of an image, or of every word of a text, beside the whole's."""

    rows: Tensor  # (batch, positions, local_features), zero where the mask is False
    mask: Tensor  # (batch, positions) bool, False on padding, True once at least
    pooled: Tensor  # (batch, features)
    lower: Tensor | None = None  # (batch, positions, channels) of a lower layer, where asked for


class Encoder(nn.Module):
    """From pixels or tokens to features; all of `Local` if called with `local=True`."""

    features: int  # width of an item's
    local_features: int  # width of a position's or word's
    token_ids: int | None = None  # that one of texts has, where it has a vocabulary of its own
    # Part of transformers' CLIP and SigLIP that is the same network, by whose names adapters go.
    tower_of_transformers: ClassVar[str | None] = None
    # Whether it computes nothing for padding: its cost is that of the words that there are, and it
    # takes, after tokens and mask, the lengths of texts on the host.
    skips_padding: bool = False
    # Whether all inputs in training are of one shape, as images are and texts are not.
    one_shape: ClassVar[bool] = False
    end_id: int | None = None  # of the token that one of texts looks for, where it has one

    @property
    def wrapped(self) -> nn.Module:
        """The network by whose names its library knows weights and adapters."""
        return self

    def names_by_depth(self) -> list[list[str]]:
        """Return the names of the parameters by depth: embeddings or stem, then each block.

        What follows the last block belongs to it.
        """
        return by_blocks(self)

    def local(self, *inputs: Tensor | None) -> Local:
        """Return features of the parts too, of the inputs that `forward` takes."""
        # By a call of the module: DeepSpeed prepares the weights of what is called.
        local: Local = self(*taken(self, inputs), local=True)
        return local


def taken(encoder: nn.Module, inputs: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """Return the inputs that an encoder takes: of texts their lengths if it skips padding."""
    return inputs if getattr(encoder, "skips_padding", False) else inputs[:2]


def cached_local(features: Tensor) -> Local:
    """Return features that were computed before as an encoder would give them.

    (batch, features) are of a single position; of (batch, positions, features), rows of zeros
    after the first are padding, and the whole's features are the mean of the others.
    """
    if features.ndim == 2:
        rows = features[:, None]
        return Local(rows, torch.ones_like(rows[..., 0], dtype=torch.bool), features)
    mask = features.any(2)
    mask[:, 0] = True
    return Local(features, mask, masked_mean(features, mask))


def masked_local(states: Tensor, mask: Tensor) -> Local:
    """Return states (batch, length, dim) as features of words, their mean as those of the text."""
    return Local(zero_padding(states, mask), mask, masked_mean(states, mask))


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Return the mean (batch, dim) of states (batch, length, dim) where mask (batch, length)."""
    weights = mask.to(states.dtype)[..., None]
    return (states * weights).sum(1) / weights.sum(1)


def zero_padding(states: Tensor, mask: Tensor) -> Tensor:
    """Return states (batch, length, dim), zero where mask (batch, length) is False."""
    return states.masked_fill(~mask[..., None], 0)
