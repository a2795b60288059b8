"""Memory layout of convolutions' weights."""

import torch
from torch import nn

from xmodal.models.layer_groups import encoders_of


def lay_out_weights(method: nn.Module, *, on_gpus: bool) -> None:
    """Lay out encoders' weights of convolutions channels-last, as their inputs are, on a GPU.

    There they would be copied into that layout at each call. ZeRO 1 to 3 keep weights as shares of
    flat memory, where they have no such layout; on a CPU, another order would change last bits.
    """
    if on_gpus:
        for encoder in encoders_of(method).values():
            encoder.to(memory_format=torch.channels_last)
