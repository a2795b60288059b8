"""PyTorch's attention with its projections as layers of their own, which adapters need.

`nn.MultiheadAttention` never calls its projections, and a `TransformerEncoderLayer` in evaluation
calls neither: adapters that replace these layers would be ignored without a word. peft merges them
around each call instead, one of them twice, and subtracts them again, which leaves other weights.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class SplitAttention(nn.Module):
    """`nn.MultiheadAttention`, batch first, on the same weights, without attention weights."""

    # What tells a TransformerEncoderLayer that its fused path, which calls no layers, is not open.
    batch_first, in_proj_bias = True, None

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads, self.dropout = attention.num_heads, attention.dropout
        assert attention.batch_first
        assert attention.in_proj_weight is not None
        self.in_proj = _linear(attention.in_proj_weight, attention.in_proj_bias)
        self.out_proj = _linear(attention.out_proj.weight, attention.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,  # noqa: ARG002 - there are none
        attn_mask: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """Return (batch, length, dim) and None; masks are added, or True where it is forbidden."""
        assert _is_same(key, value)
        own = self.in_proj(query)
        other = own if _is_same(key, query) else self.in_proj(key)
        q, k, v = self._heads(own)[0], *self._heads(other)[1:]
        mask = _added(attn_mask, q)
        if key_padding_mask is not None:
            padding = _added(key_padding_mask, q)[:, None, None]
            mask = padding if mask is None else mask + padding
        dropout = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out_proj(out.transpose(1, 2).flatten(2)), None

    def _heads(self, projected: Tensor) -> list[Tensor]:
        """Return q, k and v, (batch, heads, length, width) each."""
        parts = projected.chunk(3, -1)
        return [one.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for one in parts]


def split_attention(network: nn.Module) -> None:
    """Put split attention in the place of each of PyTorch's, on the same weights."""
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.MultiheadAttention):
            network.set_submodule(name, SplitAttention(module).train(module.training))


def join_attention(network: nn.Module) -> None:
    """Put PyTorch's attention back in the place of split ones."""
    for name, module in list(network.named_modules()):
        if isinstance(module, SplitAttention):
            network.set_submodule(name, _joined(module).train(module.training))


def _joined(split: SplitAttention) -> nn.MultiheadAttention:
    bias, width = split.in_proj.bias is not None, split.out_proj.out_features
    whole = nn.MultiheadAttention(
        width, split.num_heads, split.dropout, bias=bias, batch_first=True, device="meta"
    )
    whole.in_proj_weight, whole.in_proj_bias = _parameters(split.in_proj)
    whole.out_proj.weight, whole.out_proj.bias = _parameters(split.out_proj)
    return whole


def _parameters(layer: nn.Linear) -> tuple[Any, Any]:
    return layer.weight, layer.bias


def _is_same(one: Tensor, other: Tensor) -> bool:
    # By their memory as well: hooks of DeepSpeed pass other objects on.
    return one is other or one.data_ptr() == other.data_ptr()


def _linear(weight: Any, bias: Any) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight, layer.bias = weight, bias
    return layer


def _added(mask: Tensor | None, like: Tensor) -> Any:
    """Return a mask as what is added to scores."""
    if mask is None or mask.is_floating_point():
        return mask
    return like.new_zeros(mask.shape).masked_fill_(mask, float("-inf"))
