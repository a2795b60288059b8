"""Pooling of a text: from states of tokens to features of the whole."""

import torch
from torch import Tensor

from xmodal.models.config import TextPooling
from xmodal.models.encoder import masked_mean


def pool_text(
    states: Tensor, tokens: Tensor, mask: Tensor, pooling: TextPooling, end: int | None = None
) -> Tensor:
    """Return features (batch, dim) of states (batch, length, dim) of tokens (batch, length).

    `end_of_text` takes the state of the first token `end`, or of the first with the largest id;
    `last` that of the last token where mask (batch, length); `class` the first.
    """
    if pooling == "mean":
        return masked_mean(states, mask)
    if pooling == "class":
        return states[:, 0]
    if pooling == "last":
        place = mask.shape[1] - 1 - mask.flip(1).long().argmax(1)
    else:
        end_of_text = tokens.amax(1, keepdim=True) if end is None else end
        place = (tokens == end_of_text).long().argmax(1)
    # `len` would be a constant to the exporter to ONNX: the file would read that many texts alone.
    return states[torch.arange(states.shape[0], device=states.device), place]
