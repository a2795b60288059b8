"""Recurrent text encoders as ONNX's own operators, which read texts of different lengths.

The exporter of PyTorch knows no packed sequences; ONNX's GRU and LSTM take the lengths instead.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.models.texts.recurrent import Recurrent

# The gates of a layer in the order of ONNX, by their numbers in PyTorch's.
_GATES = {nn.GRU: (1, 0, 2), nn.LSTM: (0, 3, 1, 2)}


@contextmanager
def exportable_recurrence(module: nn.Module) -> Iterator[None]:
    """Have the recurrent encoders within a module call ONNX's operators, while it is exported."""
    encoders = [one for one in module.modules() if isinstance(one, Recurrent)]
    for encoder in encoders:
        encoder.pool = partial(_pool, encoder)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for encoder in encoders:
            del encoder.pool  # that of the class is seen again


def _pool(encoder: Recurrent, words: Tensor, mask: Tensor, _: Tensor | None) -> Tensor:
    """Return the features that `Recurrent.pool` returns, by ONNX's operators."""
    lengths = mask.sum(1).int()
    rows = words.transpose(0, 1)  # (length, batch, word), as ONNX has them
    for layer in range(encoder.states.num_layers):
        rows, last = _layer(encoder.states, layer, rows, lengths)
    if encoder.pooling == "max":
        return rows.masked_fill(~mask.T.bool().unsqueeze(2), float("-inf")).amax(0)
    return last.transpose(0, 1).flatten(1)


def _layer(
    network: nn.GRU | nn.LSTM, layer: int, rows: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the states (length, batch, directions * width) of a layer, and the last ones
    (directions, batch, width).
    """
    length, batch, _ = rows.shape
    width, directions = network.hidden_size, 1 + network.bidirectional
    weights = [
        torch.stack([_in_order(network, name, layer, way) for way in range(directions)])
        for name in ("weight_ih", "weight_hh")
    ]
    biases = torch.stack(
        [
            torch.cat([_in_order(network, name, layer, way) for name in ("bias_ih", "bias_hh")])
            for way in range(directions)
        ]
    )
    attributes: dict[str, Any] = {
        "hidden_size": width,
        "direction": "bidirectional" if network.bidirectional else "forward",
    }
    if isinstance(network, nn.GRU):
        attributes["linear_before_reset"] = 1  # as PyTorch computes the new gate
    states, last = torch.onnx.ops.symbolic_multi_out(
        type(network).__name__,
        [rows, *weights, biases, lengths],
        attributes,
        dtypes=(rows.dtype, rows.dtype),
        shapes=((length, directions, batch, width), (directions, batch, width)),
    )
    return states.permute(0, 2, 1, 3).flatten(2), last


def _in_order(network: nn.GRU | nn.LSTM, name: str, layer: int, way: int) -> Tensor:
    """Return a weight or bias of a layer and direction with its gates in ONNX's order."""
    weight = getattr(network, f"{name}_l{layer}{'_reverse' if way else ''}")
    gates = weight.chunk(len(_GATES[type(network)]))
    return torch.cat([gates[gate] for gate in _GATES[type(network)]])
